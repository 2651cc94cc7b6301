import { beforeEach, describe, expect, test } from 'vitest';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import type { PciHost } from '../../../src/vmm/pci/index.ts';
import { PhysicalSpace } from '../../../src/vmm/qtest/physical-space.ts';

const BLOCK = 0x10_0000n;

describe('what a processor reaches', () => {
  let asked: string[];
  let space: PhysicalSpace;
  let memory: GuestMemory;

  beforeEach(() => {
    asked = [];
    memory = GuestMemory.ofBytes(0x2000);
    const registers = {
      read: (offset: number, bytes: number) => {
        asked.push(`read ${offset} ${bytes}`);
        return BigInt(offset + 1);
      },
      write: (offset: number, bytes: number, value: bigint) => void asked.push(`write ${offset} ${bytes} ${value.toString(16)}`),
    };
    const pci = {
      readMemory: (address: bigint, bytes: number) => {
        asked.push(`pci read ${address.toString(16)} ${bytes}`);
        return address === 0x20_0000n ? 5n : null;
      },
      writeMemory: (address: bigint, bytes: number, value: bigint) =>
        void asked.push(`pci write ${address.toString(16)} ${bytes} ${value}`),
    };
    space = new PhysicalSpace(memory, [{ at: BLOCK, bytes: 0x20, registers }], pci as unknown as PciHost);
  });

  test('RAM first, registers, then what is behind BARs; nothing reads 0', () => {
    space.write(0x1008n, 4, 0x1234_5678n);
    expect([space.read(0x1008n, 8), space.read(0x100an, 2)]).toEqual([0x1234_5678n, 0x1234n]);
    expect([space.read(BLOCK + 8n, 4), space.read(0x20_0000n, 4), space.read(0x30_0000n, 4)]).toEqual([9n, 5n, 0n]);
    space.write(BLOCK + 4n, 4, 7n);
    space.write(0x20_0000n, 1, 9n);
    expect(asked).toEqual(['read 8 4', 'pci read 200000 4', 'pci read 300000 4', 'write 4 4 7', 'pci write 200000 1 9']);
  });

  test('an access that leaves a block is none of it', () => {
    space.read(BLOCK + 0x1cn, 8);
    space.read(BLOCK + 0x1cn, 4);
    space.read(BLOCK - 4n, 8);
    expect(asked).toEqual(['pci read 10001c 8', 'read 28 4', 'pci read ffffc 8']);
  });

  test('bytes outside RAM are aligned accesses, as wide as they can be', () => {
    const into = new Uint8Array(15);
    space.readBytes(BLOCK + 3n, into);
    expect(asked.splice(0)).toEqual(['read 3 1', 'read 4 4', 'read 8 8', 'read 16 2']);
    expect([...into]).toEqual([4, 5, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 17, 0]);
    space.writeBytes(BLOCK + 6n, Uint8Array.of(1, 2, 3, 4, 5));
    expect(asked).toEqual(['write 6 2 201', 'write 8 2 403', 'write 10 1 5']);
  });

  test('bytes of RAM are copied as they are', () => {
    space.writeBytes(0xffdn, Uint8Array.of(1, 2, 3, 4, 5));
    const back = new Uint8Array(5);
    space.readBytes(0xffdn, back);
    expect([[...back], asked]).toEqual([[1, 2, 3, 4, 5], []]);
  });
});
