"""Offscreen frames of a MuJoCo model, fast on machines without a GPU and only when asked for."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from qseq.errors import RequestError

BACKENDS = ("egl", "osmesa")
ADVICE = (
    "install Mesa's offscreen library (Debian and Ubuntu: apt-get install libegl1 libosmesa6) and set "
    "MUJOCO_GL=egl or MUJOCO_GL=osmesa, or do without video and images"
)


def choose_backend() -> str:
    """The value of MUJOCO_GL; when it is unset, the first of egl and osmesa that works here (then it is set).

    Raises:
        RequestError: none works, or MUJOCO_GL names something that cannot render without a window.
    """
    chosen = os.environ.get("MUJOCO_GL", "").lower().strip()
    if chosen in BACKENDS:
        return chosen
    if chosen not in ("", "glfw"):
        raise RequestError(f"MUJOCO_GL is '{chosen}': rendering needs egl or osmesa; {ADVICE}")
    reasons = []
    for backend in BACKENDS:
        # Tried in another process because PyOpenGL keeps the first platform it was imported with.
        program = f"from mujoco.{backend} import GLContext; GLContext(8, 8).make_current()"
        trial = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend},
            capture_output=True,
            text=True,
            check=False,
        )
        if trial.returncode == 0:
            os.environ["MUJOCO_GL"] = backend
            return backend
        lines = trial.stderr.strip().splitlines()
        reasons.append(f"{backend}: {lines[-1] if lines else f'exit status {trial.returncode}'}")
    raise RequestError(f"frames cannot be rendered: no OpenGL works here ({'; '.join(reasons)}); {ADVICE}")


class OffscreenRenderer:
    """Renders one MuJoCo model at one size from one named camera.

    Args:
        model: `mujoco.MjModel`; its visual settings are changed for speed (no shadows, reflections or multisampling).
        height, width: pixels.
        camera: name of a camera of the model.
        turned: the camera is mounted upside down; frames are turned by half a circle.

    Raises:
        RequestError: no OpenGL works, or the model has no such camera.
    """

    def __init__(self, model: Any, height: int, width: int, camera: str, turned: bool = False) -> None:
        backend = choose_backend()
        os.environ.setdefault("PYOPENGL_PLATFORM", backend)
        import mujoco

        names = [model.cam(index).name for index in range(model.ncam)]
        if camera not in names:
            raise RequestError(f"camera '{camera}' does not exist: expected one of {', '.join(names)}")
        fast_settings(model)
        model.vis.global_.offwidth = max(int(model.vis.global_.offwidth), width)
        model.vis.global_.offheight = max(int(model.vis.global_.offheight), height)
        try:
            if backend == "egl":
                from mujoco.egl import GLContext
            else:
                from mujoco.osmesa import GLContext
            self._context: Any = GLContext(width, height)
            self._context.make_current()
        except Exception as error:  # each backend raises its own kinds
            reason = " ".join(str(error).split())
            raise RequestError(f"frames cannot be rendered with MUJOCO_GL={backend}: {reason}; {ADVICE}") from error
        if not _open:
            # Registered after the backend's own, hence run before it: its library must still be there.
            atexit.register(_close_all)
        _open.add(self)
        self._mujoco = mujoco
        self._model = model
        self._turned = turned
        self._scene = mujoco.MjvScene(model, 1000)
        self._options = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = names.index(camera)
        self._viewport = mujoco.MjrRect(0, 0, width, height)
        self._buffers = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._buffers)

    def frame(self, data: Any) -> npt.NDArray[np.uint8]:
        """The picture of the present state `data` (`mujoco.MjData`): uint8 [height, width, 3]."""
        mujoco = self._mujoco
        self._context.make_current()
        mujoco.mjv_updateScene(
            self._model, data, self._options, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )
        mujoco.mjr_render(self._viewport, self._scene, self._buffers)
        picture = np.empty((self._viewport.height, self._viewport.width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(picture, None, self._viewport, self._buffers)
        # OpenGL's first row is the lowest.
        return np.ascontiguousarray(picture[:, ::-1] if self._turned else picture[::-1])

    def close(self) -> None:
        """Free the OpenGL resources; the renderer cannot be used afterwards."""
        if self._context is not None:
            self._context.make_current()
            self._buffers.free()
            self._context.free()
            self._context = None


_open: weakref.WeakSet[OffscreenRenderer] = weakref.WeakSet()


def _close_all() -> None:
    for renderer in list(_open):
        renderer.close()


def fast_settings(model: Any) -> None:
    """Switch off what makes software rendering ten times slower; data and evaluation must look the same."""
    model.vis.quality.offsamples = 0
    model.vis.quality.shadowsize = 0
    model.light_castshadow[:] = 0
    model.mat_reflectance[:] = 0
