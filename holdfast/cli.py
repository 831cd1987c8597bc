"""The ``holdfast`` command: options in, exit codes out; what it does lives in the modules it calls."""

import asyncio
import logging
import os
import signal
import traceback
from collections.abc import Callable, Coroutine
from functools import partial, wraps
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from engine.errors import EventExists, EventNotFound, EventNotOpen, HoldfastError, InvalidRequest, InvalidTransition
from engine.transport.errors import TransportError
from holdfast.collector import paused_collector
from holdfast.counted import counted
from holdfast.embedded.errors import EmbeddedError
from holdfast.logs import configure_logs
from holdfast.processes import ListenFailed, WorkersFailed
from holdfast.settings import JWT_SECRET_BYTES_MIN, Settings, SettingsError, load_settings
from holdfast.unreachable import unreachable_in_words
from holdfast.variables import unknown_variables


class LazyGroup(click.Group):
    """Subcommands by the module that has them: ``holdfast token`` must not wait for the import of a web server."""

    modules = {  # noqa: RUF012 - click's classes are not dataclasses
        "serve": "holdfast.commands.serve",
        "migrate": "holdfast.commands.migrate",
        "token": "holdfast.commands.token",
        "events": "holdfast.commands.events",
        "inspect": "holdfast.commands.inspect",
        "audit": "holdfast.commands.audit",
        "dead-letters": "holdfast.commands.dead_letters",
        "webhooks": "holdfast.commands.webhooks",
        "reconcile": "holdfast.commands.reconcile",
        "reseal": "holdfast.commands.reseal",
        "doctor": "holdfast.commands.doctor",
        "demo": "holdfast.commands.demo",
        "bench": "holdfast.commands.bench",
        "simulator": "holdfast.commands.simulator",
    }

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the signature is click's
        """In the order of a first encounter."""
        return list(self.modules)

    def invoke(self, ctx: click.Context) -> Any:
        """As usual; of an option of ours that stands behind the command's name, say where it goes."""
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            if not any(error.option_name in option.opts for option in self.params):
                raise
            where = f"goes before the command's name: `holdfast {error.option_name} ... {ctx.invoked_subcommand} ...`"
            raise click.UsageError(f"{error.option_name} {where}", ctx=error.ctx) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As usual; of a name that is none, say which may have been meant: click knows of none before its import."""
        name = args[0]
        if name not in self.modules and not name.startswith("-") and not ctx.resilient_parsing:
            raise click.NoSuchCommand(name, possibilities=self.modules, ctx=ctx)
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - the same
        """Import the module and take its ``command``."""
        module = self.modules.get(cmd_name)
        if module is None:
            return None
        with paused_collector():
            command: click.Command = import_module(module).command
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="holdfast")
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Where embedded servers live.")
@click.option("--log-level", help="debug, info, warning, error or critical.")
@click.pass_context
def main(context: click.Context, data_dir: Path | None, log_level: str | None) -> None:
    """Sell seats: hold places with a deadline, book them durably, never twice."""
    context.obj = {"data_dir": data_dir, "log_level": log_level}


def settings_from(context: click.Context, **flags: Any) -> Settings:
    """The settings of a command: its flags over the group's over the environment."""
    group, own = (
        {name: str(value) for name, value in some.items() if value is not None} for some in (context.obj, flags)
    )
    _warn_of_unknown_variables()
    settings = load_settings(os.environ, **(group | own))
    _warn_of_short_secret(settings)
    return settings


def _warn_of_unknown_variables() -> None:
    """Name what may be a mistyped setting. No error: other programs may have variables that begin like ours."""
    for name, like in unknown_variables(os.environ):
        meant = f"; did you mean {like}?" if like else ""
        click.echo(f"Warning: {name} is set, and no setting is called so{meant}", err=True)


def _warn_of_short_secret(settings: Settings) -> None:
    length = JWT_SECRET_BYTES_MIN if settings.jwt_secret is None else len(settings.jwt_secret.encode())
    if length < JWT_SECRET_BYTES_MIN:
        has = f"HOLDFAST_JWT_SECRET has {counted(length, 'byte')}"
        click.echo(f"Warning: {has}; a secret of fewer than {JWT_SECRET_BYTES_MIN} can be guessed", err=True)


def run_async(function: Callable[..., Coroutine[Any, Any, int | None]]) -> Callable[..., None]:
    """A command that is a coroutine; what it returns is the exit code, and foreseeable errors are one line."""
    return run_async_failing_with(1)(function)


def run_async_failing_with(
    failure_code: int,
) -> Callable[[Callable[..., Coroutine[Any, Any, int | None]]], Callable[..., None]]:
    """The same for a command to which exit code 1 means something else than that it has failed."""
    return partial(_runner, failure_code=failure_code)


def _runner(function: Callable[..., Coroutine[Any, Any, int | None]], *, failure_code: int) -> Callable[..., None]:
    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            configure_logs(_log_level())
            code = asyncio.run(_until_told_to_stop(function(*args, **kwargs)))
        except KeyboardInterrupt:
            raise click.exceptions.Exit(128 + signal.SIGINT) from None
        except asyncio.CancelledError:
            raise click.exceptions.Exit(128 + signal.SIGTERM) from None
        except (click.UsageError, click.exceptions.Exit):
            raise
        except Exception as error:
            if not isinstance(error, _foreseeable()):
                if failure_code == 1:  # as Python itself ends then
                    raise
                traceback.print_exc()
                raise click.exceptions.Exit(failure_code) from error
            click.ClickException(in_words(error)).show()
            raise click.exceptions.Exit(failure_code) from error
        raise click.exceptions.Exit(code or 0)

    return run


async def _until_told_to_stop(work: Coroutine[Any, Any, int | None]) -> int | None:
    """Unwind at SIGTERM as at Ctrl-C, so that embedded servers are stopped; who supervises workers takes it over."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


def _log_level() -> str:
    """Commands tell what is wrong and else keep quiet, unless asked; of a wrong level ``load_settings`` complains."""
    flags = click.get_current_context().obj or {}
    level: str = flags.get("log_level") or os.environ.get("HOLDFAST_LOG_LEVEL", "") or "warning"
    return level if level.upper() in logging.getLevelNamesMapping() else "warning"


def _foreseeable() -> tuple[type[Exception], ...]:
    """Errors whose message is all that a person needs; some of them live in modules that are slow to import."""
    from redis.exceptions import ResponseError

    from engine.store_checks import UnfitStore
    from holdfast.demo.errors import DemoFailed
    from holdfast.event_files import EventFileError
    from holdfast.readiness import NotMigrated
    from persistence.installation import PartitionsDiffer
    from persistence.publishing.sinks import SinkError
    from persistence.publishing.targets import TargetRefused

    return (
        HoldfastError,
        TransportError,
        EmbeddedError,
        SettingsError,
        ListenFailed,
        WorkersFailed,
        NotMigrated,
        UnfitStore,
        PartitionsDiffer,
        SinkError,
        TargetRefused,
        EventFileError,
        DemoFailed,
        ResponseError,
    )


def in_words(error: Exception) -> str:
    """What a person needs to know of a foreseeable error; of a server that is away, the setting that names it."""
    if words := unreachable_in_words(error):
        return words
    match error:
        case EventNotFound():
            return f"there is no event {error.event_id!r}"
        case EventExists():
            return f"there is an event {error.event_id!r} already"
        case EventNotOpen(status="draft"):
            return (
                f"{error.event_id!r} is a draft: it has no places to look at or to hold before `holdfast events open`"
            )
        case EventNotOpen():
            return f"{error.event_id!r} is {error.status}"
        case InvalidTransition():
            return f"an event that is {error.from_status} cannot become {error.to_status}"
        case InvalidRequest():
            return f"{error.path}: {error.reason}"
        case HoldfastError():
            return f"{type(error).__name__}: {error}"
        case _:
            return str(error)
