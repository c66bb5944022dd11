"""The web application of the demonstration stack: each request is a row in PostgreSQL and a member of
a set in redis, both under the id that nginx gave it, so that to do it twice is to do it once. A
connection that breaks is made anew until the request is done or out of time."""

import os
import queue
import signal
import socket
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg2
import redis

# A machine in software takes half a minute to start one of the others again.
PATIENCE = 120
PAUSE = 0.2
AWAY = (
    psycopg2.OperationalError, psycopg2.InterfaceError,
    redis.ConnectionError, redis.TimeoutError, OSError,
)
SERVER = socket.gethostname()
cache = redis.Redis("cache", socket_timeout=10, socket_connect_timeout=5)
idle = queue.LifoQueue()


def connect():
    connection = psycopg2.connect(
        host="database", user="postgres", dbname="postgres", connect_timeout=10,
        keepalives_idle=2, keepalives_interval=2, keepalives_count=3, tcp_user_timeout=10000)
    connection.autocommit = True
    return connection


def in_database(statement, *values):
    try:
        connection = idle.get_nowait()
    except queue.Empty:
        connection = connect()
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
    # One that broke does not come here.
    idle.put(connection)


def serve(request):
    in_database("INSERT INTO visits VALUES (%s, %s) ON CONFLICT DO NOTHING", request, SERVER)
    cache.sadd("visits", request)


def persistently(attempt, *arguments):
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return attempt(*arguments)
        except AWAY:
            if time.monotonic() > end:
                raise
            time.sleep(PAUSE)


class Handler(BaseHTTPRequestHandler):
    # An answer goes out in one piece: of one that ends behind its header nginx has already sent that,
    # and cannot ask the other server any more.
    wbufsize = -1

    def do_GET(self):
        persistently(serve, self.headers["X-Request-Id"])
        body = b"served by %s\n" % SERVER.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


# In the midst of what it does: to be started again is to leave requests unanswered.
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
# Two servers that make the table at once would meet in the catalogue. The lock is the transaction's,
# which both statements are: one that is given back by a third is free before the table is seen.
persistently(in_database, """
    SELECT pg_advisory_xact_lock(1);
    CREATE TABLE IF NOT EXISTS visits (request text PRIMARY KEY, server text)""")
ThreadingHTTPServer(("", 8000), Handler).serve_forever()
