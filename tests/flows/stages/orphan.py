"""A stage that ends badly and leaves a child that ignores SIGTERM."""

import subprocess
import sys

if __name__ == "__main__":
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)"
    child = f"import signal, time; {deaf}; time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True)
    print(f"child pid={process.pid} says {process.stdout.readline().strip() if process.stdout else ''}")
    sys.exit(3)
