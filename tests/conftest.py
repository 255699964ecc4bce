"""Which plugins does every test run with? `hanging` ends a test that hangs, `telling` says at once what fails."""

pytest_plugins = ["hanging", "telling"]
