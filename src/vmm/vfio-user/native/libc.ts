import { openKernelPort } from '../../../host/kernel/index.ts';
import type { Port, PortMemory } from '../../../host/port.ts';
import { eventfdSignals } from './eventfd-signals.ts';

// Of socket(2), poll(2), fcntl(2): the same numbers on every 64-bit architecture that koffi has a Linux binary for.
const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_FLAGS = 0o4000 | 0o2000000;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CTRUNC = 0x08;
const MSG_CMSG_CLOEXEC = 0x4000_0000;
const SCM_RIGHTS = 1;
const SOL_SOCKET = 1;

/** struct sockaddr_un: family u16, then a path with an ending NUL in 108 bytes. */
const SOCKADDR_BYTES = 110;
/** Descriptors that one message may bring; the kernel's own limit is 253 (SCM_MAX_FD), and what is beyond is dropped by it. */
const DESCRIPTORS = 64;

// One page: struct msghdr, struct iovec, control data; the payload behind it.
const IOVEC = 64;
const CONTROL = 128;
const CONTROL_BYTES = 16 + 4 * DESCRIPTORS;
const DATA = 4096;
const DATA_BYTES = 64 * 1024;

/** What one receive brought. Bytes are a view that the next receive overwrites. */
export interface Received {
  /** Bytes; 0: the other side has closed; negative: an errno. */
  readonly count: number;
  readonly bytes: Uint8Array;
  readonly descriptors: number[];
  /** Descriptors were dropped. */
  readonly truncated: boolean;
}

/** Sockets with descriptors, by koffi. Everything is non-blocking but `poll`; negative answers are errnos. */
export interface Libc {
  readonly port: Port;
  /** Adds 1 to an eventfd, whoever holds it too. */
  readonly signal: (eventfd: number) => void;
  /** Listens on a path; a descriptor. */
  listen(path: string): number;
  accept(listener: number): number;
  connect(path: string): number;
  receive(socket: number, bytes: number): Received;
  send(socket: number, bytes: Uint8Array, from: number, descriptors?: readonly number[]): number;
  /** pollfd structs at `fds`; the number that is ready. */
  poll(fds: PortMemory, count: number, milliseconds: number): number;
  /** The same on a thread of its own: this one goes on. */
  pollAside(fds: PortMemory, count: number, milliseconds: number, done: (ready: number) => void): void;
}

let opened: Promise<Libc> | null = null;

/** @throws Error that says what is missing: Linux, or koffi for this processor. */
export function openLibc(): Promise<Libc> {
  opened ??= open();
  return opened;
}

async function open(): Promise<Libc> {
  const port = await openKernelPort();
  const koffi = await import('koffi');
  const libc = koffi.load(null);
  const sys = {
    socket: libc.func('int socket(int domain, int type, int protocol)'),
    bind: libc.func('int bind(int fd, const void *address, unsigned int bytes)'),
    connect: libc.func('int connect(int fd, const void *address, unsigned int bytes)'),
    listen: libc.func('int listen(int fd, int backlog)'),
    accept4: libc.func('int accept4(int fd, void *address, void *bytes, int flags)'),
    recvmsg: libc.func('long recvmsg(int fd, void *message, int flags)'),
    sendmsg: libc.func('long sendmsg(int fd, const void *message, int flags)'),
    poll: libc.func('int poll(void *fds, unsigned long count, int milliseconds)'),
    // Variadic in C, as ioctl is (kernel-port.ts).
    syscall: libc.func('long syscall(long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e)'),
  };
  const result = (value: number) => (value < 0 ? -koffi.errno() : value);

  const memory = port.allocate(DATA + DATA_BYTES);
  const view = new DataView(memory.buffer);
  const data = new Uint8Array(memory.buffer, DATA, DATA_BYTES);

  /** struct msghdr: name, its bytes, iovec, count, control, its bytes, flags, each in 8 bytes. */
  function header(bytes: number, control: number): void {
    view.setBigUint64(IOVEC, memory.address + BigInt(DATA), true);
    view.setBigUint64(IOVEC + 8, BigInt(bytes), true);
    const fields = [0n, 0n, memory.address + BigInt(IOVEC), 1n, memory.address + BigInt(CONTROL), BigInt(control), 0n];
    fields.forEach((field, i) => {
      view.setBigUint64(8 * i, field, true);
    });
  }

  function address(path: string): void {
    const name = new TextEncoder().encode(path);
    if (name.length >= 108) throw new RangeError(`vfio-user: the socket's path ${path} is longer than 107 bytes`);
    data.fill(0, 0, SOCKADDR_BYTES);
    view.setUint16(DATA, AF_UNIX, true);
    data.set(name, 2);
  }

  /** Opens a socket and does something with it; closed again when that fails. */
  function socket(path: string, use: (fd: number) => number): number {
    address(path);
    const fd = result(sys.socket(AF_UNIX, SOCK_STREAM | SOCK_FLAGS, 0));
    if (fd < 0) return fd;
    const answer = use(fd);
    if (answer < 0) port.close(fd);
    return answer < 0 ? answer : fd;
  }

  /** Descriptors in the control data (cmsg(3)): length u64, level, type, then the descriptors; the next one at a multiple of 8. */
  function descriptorsOf(end: number): number[] {
    const found: number[] = [];
    for (let at = CONTROL; at + 16 <= CONTROL + end; ) {
      const length = Number(view.getBigUint64(at, true));
      if (length < 16) break;
      if (view.getInt32(at + 8, true) === SOL_SOCKET && view.getInt32(at + 12, true) === SCM_RIGHTS)
        for (let place = at + 16; place + 4 <= at + length; place += 4) found.push(view.getInt32(place, true));
      at += (length + 7) & ~7;
    }
    return found;
  }

  return {
    port,
    signal: eventfdSignals(port, (number, ...args) => result(Number(sys.syscall(number, ...args)))),
    listen: (path) =>
      socket(path, (fd) => {
        const bound = result(sys.bind(fd, memory.address + BigInt(DATA), SOCKADDR_BYTES));
        return bound < 0 ? bound : result(sys.listen(fd, 4));
      }),
    connect: (path) => socket(path, (fd) => result(sys.connect(fd, memory.address + BigInt(DATA), SOCKADDR_BYTES))),
    accept: (listener) => result(sys.accept4(listener, null, null, SOCK_FLAGS)),
    receive: (fd, bytes) => {
      header(Math.min(bytes, DATA_BYTES), CONTROL_BYTES);
      const count = result(Number(sys.recvmsg(fd, memory.address, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)));
      const control = Number(view.getBigUint64(40, true));
      const descriptors = count < 0 || control === 0 ? [] : descriptorsOf(control);
      const truncated = count >= 0 && (view.getInt32(48, true) & MSG_CTRUNC) !== 0;
      return { count, bytes: data.subarray(0, Math.max(count, 0)), descriptors, truncated };
    },
    send: (fd, bytes, from, descriptors = []) => {
      const size = Math.min(bytes.length - from, DATA_BYTES);
      data.set(bytes.subarray(from, from + size));
      const control = descriptors.length === 0 ? 0 : 16 + 4 * descriptors.length;
      header(size, (control + 7) & ~7);
      if (control !== 0) {
        view.setBigUint64(CONTROL, BigInt(control), true);
        view.setInt32(CONTROL + 8, SOL_SOCKET, true);
        view.setInt32(CONTROL + 12, SCM_RIGHTS, true);
        descriptors.forEach((descriptor, i) => {
          view.setInt32(CONTROL + 16 + 4 * i, descriptor, true);
        });
      }
      return result(Number(sys.sendmsg(fd, memory.address, MSG_DONTWAIT | MSG_NOSIGNAL)));
    },
    poll: (fds, count, milliseconds) => result(sys.poll(fds.address, count, milliseconds)),
    pollAside: (fds, count, milliseconds, done) => {
      sys.poll.async(fds.address, count, milliseconds, (error: Error | null, ready: number) => done(error === null ? ready : 0));
    },
  };
}
