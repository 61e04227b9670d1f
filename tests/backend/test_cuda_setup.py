"""Opening the device "cuda": each failure has one message with what was found and what to run.

Each check is tested with a fake CuPy (tests/backend/fake), which needs nothing installed, and,
where CUDA is emulated, with the settings that emulate such a machine.
"""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FAKE = Path(__file__).parent / "fake"
WHEEL_12, WHEEL_11, WHEEL_13 = "cupy-cuda12x", "cupy-cuda11x", "cupy-cuda13x"
T4 = {"cuda": 12090, "driver": 12040, "capabilities": [[7, 5]]}

# Hide the distributions of the test environment: only what a test installs is found.
ONLY_INSTALLED = """
import importlib.metadata, sys
found = importlib.metadata.distributions
importlib.metadata.distributions = lambda: found(path=[sys.argv[1]])
"""
FIRST_USE = """
import tinynn
from tinynn.backend import get_backend
try:
    print(get_backend("cuda").device)
except tinynn.TinynnError as error:
    print(f"{type(error).__name__}: {error}")
"""


def run(code: str, site: Path | None = None, **environment: str) -> str:
    """Run a program in a separate process and return its output."""
    paths = [str(ROOT)] if site is None else [str(site), str(FAKE), str(ROOT)]
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("CUDA_", "TINYNN_"))}
    variables |= {"PYTHONPATH": os.pathsep.join(paths), **environment}
    command = [sys.executable, "-c", code, str(site)]
    result = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def install(site: Path, *packages: str, release: str = "14.2.0") -> None:
    """Write the metadata that pip installs for packages."""
    for package in packages:
        folder = site / f"{package.replace('-', '_')}-{release}.dist-info"
        folder.mkdir()
        text = f"Metadata-Version: 2.1\nName: {package}\nVersion: {release}\n"
        (folder / "METADATA").write_text(text)


def on_machine(site: Path, machine: dict[str, Any], code: str = FIRST_USE, **more: str) -> str:
    """The output of a program on a machine that the fake CuPy simulates."""
    return run(ONLY_INSTALLED + code, site, FAKE=json.dumps(machine), **more)


# -- the message of each check ---------------------------------------------------------------------

NO_DRIVER = (
    r"CuPy \S+ \(\S+\) is installed, but there is no NVIDIA driver: install driver \d+.*; "
    r'nvidia-smi lists the GPU once it is installed; or use device "cpu"'
)
OLD_DRIVER = (
    r"the NVIDIA driver.* for CUDA 11\.4 is too old for CuPy \S+ \(\S+\), which is built for CUDA "
    r"12\.\d: install driver 525 or newer or, for a K80 \(AWS p2\), use driver 470 .*and run pip "
    r"uninstall cupy\S*, then from the checkout pip install -e '\.\[cuda11\]'"
)
NO_DEVICE = (
    r"CuPy \S+ \(\S+\) and the NVIDIA driver.* for CUDA \S+ are installed, but there is no GPU: "
    r"nvidia-smi should list one; for a K80 \(AWS p2\), use driver 470 \(newer ones do not "
    r"support it"
)
OLD_DEVICE = (
    r"cuda:0, a .*, has compute capability 3\.7, and CuPy 14\S+ \(\S+\) needs 5\.0 or newer: for a "
    r"K80 \(AWS p2\), use driver 470 .*pip uninstall cupy\S*, .*pip install -e '\.\[cuda11\]'"
)
LITTLE_MEMORY = r"cuda:0 has no free memory .*: end the program that uses it \(nvidia-smi"


def test_no_cupy(tmp_path: Path) -> None:
    no_cupy = "import sys; sys.modules['cupy'] = None\n"  # import fails
    assert on_machine(tmp_path, T4, no_cupy + FIRST_USE).strip() == (
        "DeviceError: a CUDA device needs CuPy, which is not installed: from the checkout run pip "
        "install -e '.[cuda12]' (driver 525 or newer) or, for a K80 (AWS p2) with driver 470, pip "
        f"install -e '.[cuda11]'{' (with Python 3.13 or older)' * (sys.version_info >= (3, 14))}; "
        'or use device "cpu"'
    )


def test_no_cupy_for_macos(tmp_path: Path) -> None:
    code = "import sys; sys.modules['cupy'] = None; sys.platform = 'darwin'\n" + FIRST_USE
    assert "is not available for macOS" in on_machine(tmp_path, T4, code)


def test_a_cupy_that_cannot_be_imported(tmp_path: Path) -> None:
    install(tmp_path, WHEEL_13)
    cause = "=====\nFailed to import CuPy.\n\n  ImportError: libcudart.so.13: no such file\n====="
    assert re.search(
        r"cupy-cuda13x 14\.2\.0 is installed but cannot be imported \(ImportError: libcudart\.so\.1"
        r"3: no such file\): from the checkout run pip install -e '\.\[cuda13\]', which installs",
        on_machine(tmp_path, {"import_error": cause}),
    )


def test_no_driver(tmp_path: Path) -> None:
    install(tmp_path, WHEEL_12)
    assert re.search(NO_DRIVER, on_machine(tmp_path, T4 | {"driver": 0, "status": 35}))


def test_a_driver_too_old_for_the_wheel(tmp_path: Path) -> None:
    install(tmp_path, WHEEL_12)
    assert re.search(OLD_DRIVER, on_machine(tmp_path, T4 | {"driver": 11040, "status": 35}))


def test_a_driver_that_another_wheel_fits(tmp_path: Path) -> None:
    install(tmp_path, WHEEL_13)
    assert re.search(
        r"for CUDA 12\.4 is too old for CuPy .*built for CUDA 13\.0: install driver 580 or newer, "
        r"or run pip uninstall cupy-cuda13x, then from the checkout pip install -e '\.\[cuda12\]'",
        on_machine(tmp_path, T4 | {"cuda": 13000, "status": 35}),
    )


def test_no_device(tmp_path: Path) -> None:
    install(tmp_path, WHEEL_12)
    assert re.search(NO_DEVICE, on_machine(tmp_path, T4 | {"status": 100}))
    assert re.search(NO_DEVICE, on_machine(tmp_path, T4 | {"capabilities": []}))


def test_hidden_devices(tmp_path: Path) -> None:
    install(tmp_path, WHEEL_12)
    text = on_machine(tmp_path, T4 | {"status": 100}, CUDA_VISIBLE_DEVICES="")
    assert "there is no GPU: CUDA_VISIBLE_DEVICES='' may hide it; nvidia-smi" in text


def test_a_driver_and_a_library_that_do_not_match(tmp_path: Path) -> None:
    install(tmp_path, WHEEL_12)
    text = on_machine(tmp_path, T4 | {"status": 803})
    assert re.search(r"do not work together \(cudaError 803\): nvidia-smi .* restart", text)


def test_a_k80_with_a_cuda_12_wheel(tmp_path: Path) -> None:
    install(tmp_path, WHEEL_12)
    assert re.search(OLD_DEVICE, on_machine(tmp_path, T4 | {"capabilities": [[3, 7]]}))


def test_a_k80_with_the_cuda_11_wheel(tmp_path: Path) -> None:
    install(tmp_path, WHEEL_11, release="13.6.0")
    machine = {"cuda": 11080, "driver": 11040, "capabilities": [[3, 7]]}
    assert on_machine(tmp_path, machine) == "cuda\n"


def test_a_v100_with_a_cuda_13_wheel(tmp_path: Path) -> None:
    install(tmp_path, WHEEL_13)
    machine = {"cuda": 13000, "driver": 13000, "capabilities": [[7, 0]]}
    assert re.search(
        r"compute capability 7\.0, and .* needs 7\.5 or newer: run pip uninstall cupy-cuda13x, "
        r"then from the checkout pip install -e '\.\[cuda12\]'",
        on_machine(tmp_path, machine),
    )


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("libcublas.so.13 or libcublas.so.12", "NVIDIA's libcublas:"),
        ("libnvrtc.so.12", "NVIDIA's libnvrtc:"),
        ("cublas64_12.dll", "NVIDIA's cublas64_12.dll:"),
        ("cuda_fp16.h", "NVIDIA's cuda_fp16.h:"),
    ],
)
def test_a_missing_library(tmp_path: Path, missing: str, named: str) -> None:
    install(tmp_path, WHEEL_12)
    text = on_machine(tmp_path, T4 | {"missing": missing})
    assert f"(cupy-cuda12x) finds a GPU, but not {named} from the checkout run pip" in text
    assert "pip install -e '.[cuda12]', which installs it" in text


def test_memory_used_by_other_programs(tmp_path: Path) -> None:
    install(tmp_path, WHEEL_12)
    assert re.search(LITTLE_MEMORY, on_machine(tmp_path, T4 | {"status_of_first_use": 2}))


def test_any_other_failure_is_reported(tmp_path: Path) -> None:
    install(tmp_path, WHEEL_12)
    text = on_machine(tmp_path, T4 | {"status_of_first_use": 209})
    assert "first computation on cuda:0 fails" in text
    assert "(CUDARuntimeError: cudaError 209)" in text


def test_a_gpu_with_wrong_results(tmp_path: Path) -> None:
    install(tmp_path, WHEEL_12)
    text = on_machine(tmp_path, T4 | {"matmul_is_off_by": 1})
    assert "cuda:0 computes a wrong matrix product: expected 4 for every element, got [[5.0" in text


def test_two_wheels_at_once(tmp_path: Path) -> None:
    install(tmp_path, WHEEL_12, WHEEL_11)
    text = on_machine(tmp_path, T4)
    assert text.startswith("cuda\n")  # a warning, no error: the last one installed may work
    assert (
        "RuntimeWarning: cupy-cuda11x and cupy-cuda12x are both installed and overwrite each "
        "other's files: run pip uninstall cupy-cuda11x cupy-cuda12x, then from the checkout run pip"
    ) in text


def test_a_plugin_is_not_another_cupy(tmp_path: Path) -> None:
    install(tmp_path, WHEEL_12, "cupy-xarray")
    assert on_machine(tmp_path, T4) == "cuda\n"


# -- NVIDIA's wheels for CUDA 11 -------------------------------------------------------------------

PRELOAD = (
    """
import ctypes
from pathlib import Path
import tinynn
ctypes.CDLL = lambda name, mode: print(Path(name).name, Path(name).is_file())
"""
    + FIRST_USE
)
NVIDIA_WHEELS = {
    "nvidia-cublas-cu11": ["libcublas.so.11", "libcublasLt.so.11", "libnvblas.so.11"],
    "nvidia-cuda-nvrtc-cu11": ["libnvrtc.so.11.2", "libnvrtc-builtins.so.11.8"],
}


def install_nvidia_wheels(site: Path) -> None:
    for wheel, libraries in NVIDIA_WHEELS.items():
        install(site, wheel, release="11.8.1")
        paths = [f"nvidia/{wheel}/lib/{library}" for library in libraries]
        for path in paths:
            (site / path).parent.mkdir(parents=True, exist_ok=True)
            (site / path).touch()
        record = site / f"{wheel.replace('-', '_')}-11.8.1.dist-info" / "RECORD"
        record.write_text("".join(f"{path},,\n" for path in paths))


def test_libraries_of_nvidias_wheels_are_loaded_before_cupy_13(tmp_path: Path) -> None:
    install(tmp_path, WHEEL_11, release="13.6.0")
    install_nvidia_wheels(tmp_path)
    assert on_machine(tmp_path, T4 | {"cuda": 11080}, PRELOAD).splitlines() == [
        "libnvrtc-builtins.so.11.8 True",
        "libnvrtc.so.11.2 True",
        "libcublasLt.so.11 True",
        "libcublas.so.11 True",
        "cuda",
    ]


def test_without_those_wheels_the_system_has_the_libraries(tmp_path: Path) -> None:
    install(tmp_path, WHEEL_11, release="13.6.0")
    assert on_machine(tmp_path, T4 | {"cuda": 11080}, PRELOAD) == "cuda\n"


def test_cupy_14_finds_its_libraries_itself(tmp_path: Path) -> None:
    install(tmp_path, WHEEL_12)
    install_nvidia_wheels(tmp_path)
    assert on_machine(tmp_path, T4, PRELOAD) == "cuda\n"


# -- the same on the emulation of CUDA -------------------------------------------------------------


def cuda_of_the_emulation() -> str:
    """The version of the emulated CuPy, or an empty string."""
    try:
        release, _, label = version("cupy").partition("+")
    except PackageNotFoundError:
        return ""
    return release if label == "cpuemu" else ""


emulated = pytest.mark.skipif(not cuda_of_the_emulation(), reason="needs the emulation of CUDA")
made_for_cuda_12 = pytest.mark.skipif(
    not cuda_of_the_emulation().startswith("14"), reason="needs the emulation under CuPy 14"
)


@emulated
@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("CPUCUDA_DRIVER_VERSION", "0", NO_DRIVER),
        ("CPUCUDA_DEVICES", "0", NO_DEVICE),
        ("CPUCUDA_MEMORY", "1K", LITTLE_MEMORY),
        pytest.param("CPUCUDA_DRIVER_VERSION", "11040", OLD_DRIVER, marks=made_for_cuda_12),
        pytest.param("CPUCUDA_CC", "3.7", OLD_DEVICE, marks=made_for_cuda_12),
    ],
)
def test_the_emulation_as_such_a_machine(setting: str, value: str, message: str) -> None:
    assert re.search(message, run(FIRST_USE, **{setting: value}))


@emulated
def test_the_emulation_as_a_good_machine() -> None:
    assert run(FIRST_USE, CPUCUDA_CC="7.5") == "cuda\n"


@emulated
@pytest.mark.skipif(not cuda_of_the_emulation().startswith("13"), reason="needs CuPy 13")
def test_the_emulation_as_a_k80() -> None:
    assert run(FIRST_USE, CPUCUDA_CC="3.7", CPUCUDA_DRIVER_VERSION="11080") == "cuda\n"


@emulated
def test_the_emulation_as_a_machine_with_two_gpus() -> None:
    tests = Path(__file__).with_name("test_several_gpus.py")
    command = [sys.executable, "-m", "pytest", "-q", str(tests)]
    variables = os.environ | {"CPUCUDA_DEVICES": "2"}
    result = subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout
