# SPDX-License-Identifier: MIT
"""Entries with a running balance, which have to agree after a restore as before."""

import itertools
import signal
import time

book = [(0, 0)]


def audit(_signal, _frame):
    amounts = [amount for amount, _ in book]
    good = list(itertools.accumulate(amounts)) == [balance for _, balance in book]
    print("PASS" if good else f"FAIL {book}", flush=True)


signal.signal(signal.SIGUSR1, audit)
print("READY", flush=True)
while True:
    time.sleep(0.25)
    amount = len(book) ** 2
    book.append((amount, book[-1][1] + amount))
    print("tick", flush=True)
