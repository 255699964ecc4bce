import importlib
import inspect
import pkgutil

import hostler


def test_package_has_a_docstring() -> None:
    assert hostler.__doc__


def test_no_module_takes_the_name_of_what_its_package_gives() -> None:
    """What a package gives is replaced by a module of that name as soon as anybody imports the module, unless the
    package did so itself."""
    taken = []
    for found in pkgutil.walk_packages(hostler.__path__, "hostler."):
        if found.ispkg:
            package = importlib.import_module(found.name)
            modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
            for name in modules.intersection(getattr(package, "__all__", ())):
                importlib.import_module(f"{found.name}.{name}")
                if inspect.ismodule(getattr(package, name)):
                    taken.append(f"{found.name}.{name}")
    taken.remove("hostler.testing.rehearsal")  # this is meant to be the module
    assert taken == []
