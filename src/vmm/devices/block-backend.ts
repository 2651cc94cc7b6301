import { closeSync, fstatSync, fsyncSync, openSync, readSync, writeSync } from 'node:fs';
import { requireBytes, requireInteger, requireNumber, requireString } from '../../memory/arguments.ts';

/** Where a disk's bytes are. Each call answers 0, or a negative number when it failed. */
export interface BlockBackend {
  /** A multiple of 512. */
  readonly bytes: number;
  read(at: number, into: Uint8Array): number;
  write(at: number, from: Uint8Array): number;
  flush(): number;
}

/**
 * A file as a disk.
 *
 * @example
 * const disk = new FileBackend('/dev/null');
 * disk.bytes; // 0: whole sectors of the file
 * disk.close();
 */
export class FileBackend implements BlockBackend {
  readonly bytes: number;
  readonly #fd: number;

  /** @throws Node's error when the file cannot be opened for reading and writing. */
  constructor(path: string) {
    requireString('FileBackend', 'path', path);
    this.#fd = openSync(path, 'r+');
    this.bytes = Math.floor(fstatSync(this.#fd).size / 512) * 512;
  }

  read(at: number, into: Uint8Array): number {
    requireNumber('FileBackend', 'at', at);
    requireBytes('FileBackend', 'into', into);
    return whole(into.length, (done) => readSync(this.#fd, into, done, into.length - done, at + done));
  }

  write(at: number, from: Uint8Array): number {
    requireNumber('FileBackend', 'at', at);
    requireBytes('FileBackend', 'from', from);
    return whole(from.length, (done) => writeSync(this.#fd, from, done, from.length - done, at + done));
  }

  flush(): number {
    return whole(0, () => {
      fsyncSync(this.#fd);
      return 0;
    });
  }

  close(): void {
    closeSync(this.#fd);
  }
}

/** Does all of it, piece by piece; a system call that fails, or ends short of anything, is -1. */
function whole(bytes: number, piece: (done: number) => number): number {
  try {
    let done = 0;
    do {
      const size = piece(done);
      if (size === 0 && bytes > 0) return -1;
      done += size;
    } while (done < bytes);
    return 0;
  } catch {
    return -1;
  }
}

/**
 * Memory as a disk, for tests and measurements.
 *
 * @example
 * const disk = new MemoryBackend(1 << 20);
 * disk.write(512, Uint8Array.of(7)); // 0
 * const sector = new Uint8Array(1);
 * disk.read(512, sector); // 0
 * sector[0]; // 7
 */
export class MemoryBackend implements BlockBackend {
  readonly content: Uint8Array;

  constructor(bytes: number) {
    requireInteger('MemoryBackend', 'bytes', bytes, 512, 2 ** 32);
    this.content = new Uint8Array(bytes);
  }

  get bytes(): number {
    return this.content.length;
  }

  read(at: number, into: Uint8Array): number {
    requireNumber('MemoryBackend', 'at', at);
    requireBytes('MemoryBackend', 'into', into);
    into.set(this.content.subarray(at, at + into.length));
    return 0;
  }

  write(at: number, from: Uint8Array): number {
    requireNumber('MemoryBackend', 'at', at);
    requireBytes('MemoryBackend', 'from', from);
    this.content.set(from, at);
    return 0;
  }

  flush(): number {
    return 0;
  }
}
