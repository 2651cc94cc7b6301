import { expect, test } from 'vitest';
import { Cpio } from '../../src/cli/boot/cpio.ts';

/** As the kernel's init/initramfs.c takes one apart: names and contents begin at multiples of 4. */
function entriesOf(image: Buffer) {
  const entries: { name: string; inode: number; mode: number; text: string }[] = [];
  for (let at = 0; ; ) {
    expect(image.toString('latin1', at, at + 6)).toBe('070701');
    const field = (i: number) => Number.parseInt(image.toString('latin1', at + 6 + 8 * i, at + 14 + 8 * i), 16);
    const [inode, mode, bytes, nameBytes] = [field(0), field(1), field(6), field(11)] as [number, number, number, number];
    const name = image.toString('utf8', at + 110, at + 110 + nameBytes - 1);
    expect(image[at + 110 + nameBytes - 1]).toBe(0);
    const content = (at + 110 + nameBytes + 3) & ~3;
    if (name === 'TRAILER!!!') {
      expect(image.length).toBe(content);
      return entries;
    }
    entries.push({ name, inode, mode, text: image.toString('utf8', content, content + bytes) });
    at = (content + bytes + 3) & ~3;
  }
}

test('files, folders and links, with names and contents of every length', () => {
  const image = new Cpio().addDirectory('bin').addLink('bin/sh', 'busybox');
  const files = Array.from({ length: 8 }, (_, i) => ['n'.repeat(1 + (i % 5)) + i, 'ä'.repeat(i % 3) + 'x'.repeat(i)] as const);
  for (const [name, text] of files) image.addFile(name, text, 0o100644);
  const entries = entriesOf(image.end());
  expect(entries.map(({ name, mode, text }) => [name, mode, text])).toEqual([
    ['bin', 0o040755, ''],
    ['bin/sh', 0o120777, 'busybox'],
    ...files.map(([name, text]) => [name, 0o100644, text]),
  ]);
  // Two with the same are links to one file.
  expect(new Set(entries.map(({ inode }) => inode)).size).toBe(entries.length);
});
