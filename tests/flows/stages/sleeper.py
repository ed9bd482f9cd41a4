"""A stage that ends when its parent does, or at SIGTERM."""

import os
import time

from k15.stage import watch_stdin

if __name__ == "__main__":
    watch_stdin(lambda: os._exit(1))
    print("sleeps", flush=True)
    time.sleep(600)
