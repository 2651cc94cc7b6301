import { openSync } from 'node:fs';
import { errno } from '../../../host/errno.ts';
import type { Port } from '../../../host/port.ts';

/** A system call by its number: what it returns, or a negative errno. */
export type SystemCall = (number: number, ...args: readonly [bigint, bigint, bigint, bigint, bigint]) => number;

/** Numbers of system calls: x86-64's own, and those that all later processors share. */
const numbersOf = (processor: string) =>
  processor === 'x64' ? { setup: 206, getevents: 208, submit: 209 } : { setup: 0, getevents: 4, submit: 2 };

/** struct iocb (io_submit(2)), little-endian: file u32, bytes u64 (none), flags u32, eventfd u32; 0 is the opcode of a read. */
const IOCB = { FILE: 20, BUFFER: 24, FLAGS: 56, EVENTFD: 60, BYTES: 64 } as const;
const FLAG_RESFD = 1;
/** Reads at one time, and struct io_event. */
const DEPTH = 8;
const EVENT_BYTES = 32;

// Places in one piece of memory: context, struct iocb, list of its address, events.
const CONTEXT = 0;
const REQUEST = 64;
const LIST = REQUEST + IOCB.BYTES;
const EVENTS = 192;

/**
 * Adds 1 to eventfds of others and never waits. write(2) waits where the owner has filled one and left it blocking, and whether it will
 * cannot be known before: count and flags are shared with the owner, who may change both between two calls of ours. The kernel's own
 * signal waits for nobody, and leaves a full one full; here the end of an asynchronous read (of no bytes, so it ends at once) gives it.
 * @throws Error where the kernel has no asynchronous reads for this process.
 */
export function eventfdSignals(port: Port, systemCall: SystemCall): (eventfd: number) => void {
  const number = numbersOf(process.arch);
  const memory = port.allocate(EVENTS + DEPTH * EVENT_BYTES);
  const view = new DataView(memory.buffer);
  const at = (place: number) => memory.address + BigInt(place);
  const made = systemCall(number.setup, BigInt(DEPTH), at(CONTEXT), 0n, 0n, 0n);
  if (made < 0) throw new Error(`vfio-user: eventfds cannot be signalled here, for io_setup(2) is refused (errno ${-made})`);
  const context = view.getBigUint64(CONTEXT, true);
  view.setUint32(REQUEST + IOCB.FILE, openSync('/dev/null', 'r'), true);
  view.setBigUint64(REQUEST + IOCB.BUFFER, at(EVENTS), true);
  view.setUint32(REQUEST + IOCB.FLAGS, FLAG_RESFD, true);
  view.setBigUint64(LIST, at(REQUEST), true);
  const submit = () => systemCall(number.submit, context, 1n, at(LIST), 0n, 0n);
  const collect = () => systemCall(number.getevents, context, 0n, BigInt(DEPTH), at(EVENTS), 0n);
  return (eventfd) => {
    view.setUint32(REQUEST + IOCB.EVENTFD, eventfd, true);
    // What has ended takes room until it is collected.
    if (submit() === -errno.EAGAIN) {
      collect();
      submit();
    }
    collect();
  };
}
