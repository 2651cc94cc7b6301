import { HostError } from '../errno.ts';
import type { Port, PortMemory } from '../port.ts';
import { type IoctlName, ioctl } from './uapi.ts';

/**
 * One struct in memory that the kernel can read, made once and used for every call of its kind: a call allocates nothing.
 * 32-bit fields are `words`, by offset / 4; 64-bit fields are two words, low half first.
 */
export class Command {
  readonly name: IoctlName;
  readonly words: Int32Array;
  readonly #port: Port;
  readonly #memory: PortMemory;
  readonly #request: number;

  /** `bytes`: size of the struct, which goes into its first field. */
  constructor(port: Port, name: IoctlName, bytes: number) {
    this.name = name;
    this.#port = port;
    this.#request = ioctl[name];
    this.#memory = port.allocate(bytes);
    this.words = new Int32Array(this.#memory.buffer, 0, bytes / 4);
    this.words[0] = bytes;
  }

  /** Sets a 64-bit field to a page's address, or to the bytes that `pfn` pages are. */
  setPages(word: number, pfn: number): void {
    this.words[word] = pfn << 12;
    this.words[word + 1] = (pfn / 0x100000) | 0;
  }

  set64(word: number, value: bigint): void {
    this.words[word] = Number(BigInt.asIntN(32, value));
    this.words[word + 1] = Number(BigInt.asIntN(32, value >> 32n));
  }

  get64(word: number): bigint {
    return (BigInt(this.words[word + 1] >>> 0) << 32n) | BigInt(this.words[word] >>> 0);
  }

  /** Returns what the kernel answers: 0 or more, or a negative errno. */
  call(fd: number): number {
    return this.#port.ioctl(fd, this.#request, this.#memory);
  }

  release(): void {
    this.#memory.release();
  }
}

/** Makes a call that is not a hot one with a struct of its own. @throws HostError when the kernel refuses. */
export function callOnce(
  port: Port,
  fd: number,
  name: IoctlName,
  bytes: number,
  fill: (command: Command) => void,
  hint?: string,
): Int32Array {
  const command = new Command(port, name, bytes);
  try {
    fill(command);
    const result = command.call(fd);
    if (result < 0) throw new HostError(name, result, undefined, hint);
    return command.words.slice();
  } finally {
    command.release();
  }
}
