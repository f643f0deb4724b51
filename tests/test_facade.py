"""The package's public names are imported on first use."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import clara_proxy


def test_public_names_are_those_of_their_modules() -> None:
    from clara_proxy.compression.clara.clara import Clara  # noqa: PLC0415
    from clara_proxy.proxy.app import create_app  # noqa: PLC0415
    from clara_proxy.proxy.runtime.in_process import compress  # noqa: PLC0415

    assert clara_proxy.Clara is Clara
    assert clara_proxy.create_app is create_app
    assert clara_proxy.compress is compress
    assert clara_proxy.__version__ == version("clara-proxy")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'condense'"):
        getattr(clara_proxy, "condense")  # noqa: B009


def test_importing_the_package_loads_neither_torch_nor_the_server() -> None:
    code = (
        "import sys, clara_proxy; clara_proxy.__version__; print(*({'torch', 'fastapi', 'litellm'} & set(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not process.stdout.strip()
