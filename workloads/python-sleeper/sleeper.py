import time
while not time.sleep(0.25):
    print("tick", flush=True)
