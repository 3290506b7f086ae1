"""What scope's entry point names: the hook that registers the pipeline."""

from scope.core.plugins.hookspecs import hookimpl


@hookimpl
def register_pipelines(register):
    """Called by scope once; torch comes only now."""
    from .pipeline import ShotStreamScope

    register(ShotStreamScope)
