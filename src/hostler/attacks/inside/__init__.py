"""What runs inside a sandbox under attack: functions of the standard library alone, packed into one file.

Each gives back what it succeeded in, one sentence each. None does harm where it succeeds: what could be changed is
opened, or asked about, and left as it is. Nothing here may import more of Hostler than this package.
"""
