"""Four Python threads that sleep in a loop; a tick means that each of them went round."""

import threading
import time

rounds = [0] * 4


def work(index):
    while True:
        time.sleep(0.2)
        rounds[index] += 1


for index in range(len(rounds)):
    threading.Thread(target=work, args=(index,), daemon=True).start()
print("READY", flush=True)
while True:
    before = list(rounds)
    while any(now == then for now, then in zip(rounds, before)):
        time.sleep(0.05)
    print("tick", flush=True)
