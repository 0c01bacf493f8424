from tests.client.conftest import daemon, runtime

__all__ = ["daemon", "runtime"]
