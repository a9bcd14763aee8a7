"""A client that knows netio only by its proto: watches a process, prints each
tick's samples as a line of JSON, and ends its watch.

usage: client.py STUBS ENDPOINT PID TICKS
"""

import json
import sys

stubs, endpoint, pid, ticks = sys.argv[1:]
sys.path.insert(0, stubs)

import grpc
from google.protobuf import descriptor_pb2  # noqa: F401 (needed by the stubs)
from netio.v1 import netio_pb2, netio_pb2_grpc

# For a Unix socket gRPC's own client sends the socket's path as the authority,
# which servers made with h2 refuse as malformed.
options = [("grpc.default_authority", "localhost")]

with grpc.insecure_channel(endpoint, options) as channel:
    netio = netio_pb2_grpc.NetIoServiceStub(channel)
    try:
        netio.Watch(netio_pb2.WatchRequest(target=netio_pb2.Target(pid=0)))
        sys.exit("pid 0 was accepted")
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
    target = netio_pb2.Target(pid=int(pid))
    watch = netio.Watch(netio_pb2.WatchRequest(target=target)).watch
    stream = netio.Subscribe(netio_pb2.SubscribeRequest(watch_ids=[watch.watch_id]))
    for _ in range(int(ticks)):
        tick = next(stream)
        for sample in tick.samples:
            print(
                json.dumps(
                    {
                        "sequence": tick.sequence,
                        "pid": sample.process.pid,
                        "name": sample.process.name,
                        "sent_bytes_total": sample.sent_bytes_total,
                        "received_bytes_total": sample.received_bytes_total,
                    }
                ),
                flush=True,
            )
    stream.cancel()
    ended = netio.Unwatch(netio_pb2.UnwatchRequest(watch_id=watch.watch_id)).watch_ids
    assert list(ended) == [watch.watch_id], ended
    assert not netio.ListWatches(netio_pb2.ListWatchesRequest()).watches
