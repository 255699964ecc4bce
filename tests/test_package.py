import importlib
import pkgutil

import hostler


def test_package_has_a_docstring() -> None:
    assert hostler.__doc__


def test_no_module_takes_the_name_of_what_its_package_gives() -> None:
    """To import such a module, whoever does it and whenever, replaces what the package gives by the module."""
    taken = []
    for found in pkgutil.walk_packages(hostler.__path__, "hostler."):
        if found.ispkg:
            package = importlib.import_module(found.name)
            modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
            taken += [f"{found.name}.{name}" for name in modules.intersection(getattr(package, "__all__", ()))]
    assert taken == []
