"""Which plugins does every test run with? `hanging` ends a test that hangs, `telling` says at once what fails, and
`databases` has empty databases of both kinds."""

pytest_plugins = ["hanging", "telling", "databases"]
