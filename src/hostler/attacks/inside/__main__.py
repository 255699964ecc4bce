"""The entry of the packed program."""

from hostler.attacks.inside import battery, files, kernel, network, processes, survivors  # noqa: F401

battery.main()
