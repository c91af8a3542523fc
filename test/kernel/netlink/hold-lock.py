"""Keeps the lock of a TCP socket: a send from a page that is missing until a line comes on standard input (userfaultfd)."""
import ctypes, fcntl, mmap, os, socket, struct, sys, threading

SYSCALL = {"x86_64": 323, "aarch64": 282}[os.uname().machine]
UFFDIO_API, UFFDIO_REGISTER, UFFDIO_ZEROPAGE = 0xC018AA3F, 0xC020AA00, 0xC020AA04
MISSING = 1
PAGE = mmap.PAGESIZE

libc = ctypes.CDLL(None, use_errno=True)
faults = libc.syscall(SYSCALL, os.O_CLOEXEC)
if faults < 0:
    sys.exit("userfaultfd: " + os.strerror(ctypes.get_errno()))
fcntl.ioctl(faults, UFFDIO_API, struct.pack("QQQ", 0xAA, 0, 0))
memory = mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
fcntl.ioctl(faults, UFFDIO_REGISTER, struct.pack("QQQQ", start, PAGE, MISSING, 0))

listener = socket.create_server(("127.0.0.1", 0))
client = socket.socket(socket.AF_INET6)  # as programs of Java open them
client.connect(("::ffff:127.0.0.1", listener.getsockname()[1]))
ports = client.getsockname()[1], listener.getsockname()[1]
server, _ = listener.accept()
send = libc.send
send.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
sender = threading.Thread(target=send, args=(client.fileno(), start, PAGE, 0), daemon=True)
sender.start()
os.read(faults, 32)  # the kernel copies from the page, and has the lock
print(*ports, flush=True)
sys.stdin.readline()
fcntl.ioctl(faults, UFFDIO_ZEROPAGE, struct.pack("QQQQ", start, PAGE, 0, 0))
sender.join()
client.settimeout(20)
try:
    print("read", client.recv(1), flush=True)
except OSError as e:
    print(e.errno, flush=True)
