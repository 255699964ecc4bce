import hostler


def test_package_has_a_docstring() -> None:
    assert hostler.__doc__
