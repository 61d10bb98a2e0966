"""Launches that are not replayed: checked, packed, made and forgotten.

A function keeps the parameter blocks and configurations that such launches were made with. A launch
borrows one, which is its own while it runs, and writes every argument anew; so any thread may
launch, and nothing is allocated for a configuration seen before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyferrum_kv.driver.arguments import ArgumentBlock
from pyferrum_kv.driver.binding import CROWD, THREAD
from pyferrum_kv.driver.direct import again_or_raise
from pyferrum_kv.driver.launch_config import LaunchConfig, checked_config, driver_config

if TYPE_CHECKING:
    from pyferrum_kv.driver.function import CudaFunction
    from pyferrum_kv.driver.stream import CudaStream

_MAX_CONFIGS = 256
"""Configurations a function keeps blocks for; past that it starts again."""


class _Form:
    """A parameter block and a configuration, to be filled in."""

    __slots__ = ("block", "config", "label", "packed")

    def __init__(self, function: CudaFunction, config: LaunchConfig, cu_stream: Any) -> None:
        api = function.context.api
        self.block: ArgumentBlock = function.new_block()
        self.config = driver_config(api, config, cu_stream)
        self.packed = api.launch_ex.pack(self.config, function.cu_function, self.block)
        self.label = f"{function.name} {config}"


class OnceLauncher:
    """The launches of one function that are made once."""

    def __init__(self, function: CudaFunction) -> None:
        self._function = function
        self._forms: dict[LaunchConfig, list[_Form]] = {}
        # the configuration of the last launch, which the next one often has: no hash to compute
        self._last: tuple[LaunchConfig | None, list[_Form]] = (None, [])

    def launch(self, config: LaunchConfig, arguments: list[Any], stream: CudaStream) -> None:
        """Check everything, and launch; asynchronous. The stream is of the function's context."""
        function, context = self._function, self._function.context
        ledger = context.ledger
        if ledger.attention:
            context.attend(f"launch of {function.name} {config}")
        if not CROWD.is_one and THREAD.bound is not ledger:
            context.bind_to_thread()
        last, forms = self._last
        if config is not last:
            forms = self._forms_for(config)
        _ = function.cu_function  # ClosedError after the module's close()
        cu_stream = stream.cu_stream  # and after the stream's
        try:
            form = forms.pop()
        except IndexError:
            form = _Form(function, config, cu_stream)
        try:
            form.block.write_all(arguments)
            form.config.hStream = cu_stream
            if ledger.captures:
                ledger.keep((function, *arguments))
            call = context.api.launch_ex.call
            status = call(*form.packed)
            if status:
                again_or_raise(context, call, form.packed, status, form.label)
            ledger.last_launch = form.label
        finally:
            forms.append(form)

    def _forms_for(self, config: LaunchConfig) -> list[_Form]:
        forms = self._forms.get(config)
        if forms is None:
            checked_config(self._function, config)
            if len(self._forms) >= _MAX_CONFIGS:  # a caller with ever new shapes
                self._forms.clear()
            forms = self._forms.setdefault(config, [])
        self._last = config, forms
        return forms
