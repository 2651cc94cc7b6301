import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';

/** Writes directories into an initramfs: the "newc" format of the kernel's Documentation/driver-api/early-userspace/buffer-format.rst. */
export class Cpio {
  readonly #parts: Buffer[] = [];
  #inode = 0;

  /** Adds everything below a directory, as it would lie below `at` in the image. */
  addTree(directory: string, at = ''): this {
    for (const name of readdirSync(directory)) {
      const path = join(directory, name);
      const stat = lstatSync(path);
      const target = at === '' ? name : `${at}/${name}`;
      if (stat.isSymbolicLink()) this.add(target, stat.mode, Buffer.from(readlinkSync(path)));
      else if (stat.isDirectory()) this.add(target, stat.mode, Buffer.alloc(0)).addTree(path, target);
      else this.add(target, stat.mode, readFileSync(path));
    }
    return this;
  }

  addDirectory(path: string): this {
    return this.add(path, 0o040755, Buffer.alloc(0));
  }

  addFile(path: string, text: string, mode = 0o100755): this {
    return this.add(path, mode, Buffer.from(text));
  }

  addLink(path: string, target: string): this {
    return this.add(path, 0o120777, Buffer.from(target));
  }

  add(path: string, mode: number, data: Buffer): this {
    const name = Buffer.from(`${path}\0`);
    const fields = [++this.#inode, mode, 0, 0, 1, 0, data.length, 0, 0, 0, 0, name.length, 0];
    const header = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`;
    this.#parts.push(padded(Buffer.concat([Buffer.from(header), name])), padded(data));
    return this;
  }

  end(): Buffer {
    this.add('TRAILER!!!', 0, Buffer.alloc(0));
    return Buffer.concat(this.#parts);
  }
}

function padded(data: Buffer): Buffer {
  const missing = -data.length & 3;
  return missing === 0 ? data : Buffer.concat([data, Buffer.alloc(missing)]);
}
