"""OpenStack Swift with its S3 API, in one process on loopback: account, container and object server, and the proxy.

Run by the Python of an environment that has Swift in it, which the rest of Golive has not: ``swift_server.py FOLDER``. The
port is written to ``FOLDER/port`` once the server answers.
"""

import eventlet

eventlet.monkey_patch()

import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from eventlet import wsgi  # noqa: E402
from swift.common.ring import RingBuilder  # noqa: E402
from swift.common.utils import mkdirs, set_swift_dir  # noqa: E402

SETTINGS = """[swift-hash]
swift_hash_path_suffix = golive
[storage-policy:0]
name = one
default = yes
"""
PROXY = """[DEFAULT]
swift_dir = {folder}
[pipeline:main]
pipeline = catch_errors s3api tempauth slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
conn_timeout = 10
node_timeout = 30
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:s3api]
use = egg:swift#s3api
s3_acl = true
check_bucket_owner = true
[filter:tempauth]
use = egg:swift#tempauth
user_golive_backup = {key} .admin
user_golive_reader = {key}
[filter:slo]
use = egg:swift#slo
"""
BACKEND = """[DEFAULT]
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
[app:main]
use = egg:swift#{name}
"""


class Cache:
    """What Swift asks of memcached, in this process."""

    def __init__(self):
        self._values = {}

    def get(self, key, **_):
        return self._values.get(key)

    def set(self, key, value, **_):
        self._values[key] = value

    def delete(self, key, **_):
        self._values.pop(key, None)

    def incr(self, key, delta=1, **_):
        self._values[key] = max(0, int(self._values.get(key, 0)) + delta)
        return self._values[key]

    def decr(self, key, delta=1, **_):
        return self.incr(key, -delta)


def main() -> None:
    folder = Path(sys.argv[1])
    key = (folder / "key").read_text()
    (folder / "swift.conf").write_text(SETTINGS)
    set_swift_dir(str(folder))
    from swift.common.storage_policy import reload_storage_policies
    from swift.common.wsgi import loadapp

    reload_storage_policies()
    sockets = {name: eventlet.listen(("127.0.0.1", 0)) for name in ("account", "container", "object", "proxy")}
    mkdirs(str(folder / "devices" / "disk"))
    for name in ("account", "container", "object"):
        builder = RingBuilder(4, 1, 1)
        port = sockets[name].getsockname()[1]
        builder.add_dev({"region": 1, "zone": 1, "weight": 1, "ip": "127.0.0.1", "port": port, "device": "disk"})
        builder.rebalance()
        builder.get_ring().save(str(folder / f"{name}.ring.gz"))
        (folder / f"{name}.conf").write_text(BACKEND.format(folder=folder, name=name))
    (folder / "proxy.conf").write_text(PROXY.format(folder=folder, key=key))
    cache = Cache()
    for name, listening in sockets.items():
        app = loadapp(str(folder / f"{name}.conf"))

        def with_cache(environ, start_response, app=app):
            environ["swift.cache"] = cache
            return app(environ, start_response)

        eventlet.spawn(wsgi.server, listening, with_cache, log_output=False, max_size=200)
    (folder / "port.new").write_text(str(sockets["proxy"].getsockname()[1]))
    (folder / "port.new").rename(folder / "port")
    while True:
        eventlet.sleep(3600)


main()
