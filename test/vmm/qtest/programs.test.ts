import { describe, expect, test } from 'vitest';
import type { UnitName } from '../../../src/vmm/qtest/index.ts';
import { Client, ECAM } from './client.ts';

/*
 * What QEMU's own IOMMU tests do on its machines, done by a client of ours: tables written word by word over the protocol, registers programmed,
 * one DMA of the test device to where the tables say, and one to where they say nothing.
 */

const PAGE = 0x1000;
/** Requester ID of the test device. */
const DEVICE = 2 << 3;
const IOVA = 0x4020_1567;
const UNMAPPED = IOVA + PAGE;
const OK = 0;
const REFUSED = 0xdead_0002;

/** Tables of 512 entries that are one below the other from `root` on, so that one page is mapped. */
function mapPage(client: Client, root: number, levels: number, iova: number, target: number, entry: (at: number, leaf: boolean) => bigint) {
  let table = root;
  for (let level = levels - 1; level >= 0; level--) {
    const next = level === 0 ? target : root + (levels - level) * PAGE;
    const index = Math.floor(iova / 2 ** (12 + 9 * level)) % 512;
    client.writeq(table + 8 * index, entry(next, level === 0));
    table = next;
  }
}

/** The page is reached, and the next is not. */
function expectMapped(client: Client, expected: number) {
  expect(client.dma(IOVA, expected)).toBe(OK);
  expect(client.readl(expected)).toBe(0x1234_5678);
  expect(client.dma(UNMAPPED, expected)).toBe(REFUSED);
}

describe('RISC-V', () => {
  const RAM = 0x8000_0000;
  const [DIRECTORY, FIRST, SECOND, TARGET, COMMANDS, FAULTS] = [0x10000, 0x20000, 0x40000, 0x60000, 0x70000, 0x80000].map(
    (at) => RAM + at,
  ) as [number, number, number, number, number, number];
  const REGISTERS = 0xe001_0000;
  const SV39 = 8n << 60n;
  const [TC, IOHGATP, FSC] = [0, 8, 24];
  const entry = (at: number, leaf: boolean) => (BigInt(at >>> 12) << 10n) | (leaf ? 0xd7n : 1n);

  function start(context: Record<number, bigint>): Client {
    const client = new Client('riscv-virt');
    const iommu = ECAM['riscv-virt'] + BigInt(1 << 15);
    client.writel(iommu + 0x10n, REGISTERS);
    client.writel(iommu + 0x14n, 0);
    client.writel(iommu + 4n, 6);
    for (const [at, value] of Object.entries(context)) client.writeq(DIRECTORY + 64 * DEVICE + Number(at), value);
    const queue = (base: number) => (BigInt(base >>> 12) << 10n) | 7n;
    for (const [at, value] of [
      [0x18, queue(COMMANDS)],
      [0x28, queue(FAULTS)],
    ] as const)
      client.writeq(REGISTERS + at, value);
    for (const at of [0x48, 0x4c]) {
      client.writel(REGISTERS + at, 1);
      expect(client.readl(REGISTERS + at) & (1 << 16)).not.toBe(0);
    }
    const ddtp = (BigInt(DIRECTORY >>> 12) << 10n) | 2n;
    client.writeq(REGISTERS + 0x10, ddtp);
    expect(client.readq(REGISTERS + 0x10)).toBe(ddtp);
    return client;
  }

  test('neither stage: an address is what it is', () => {
    const client = start({ [TC]: 1n });
    expect(client.dma(TARGET, TARGET)).toBe(OK);
  });
  test('first stage', () => {
    const client = start({ [TC]: 1n, [FSC]: SV39 | BigInt(FIRST >>> 12) });
    mapPage(client, FIRST, 3, IOVA, TARGET, entry);
    expectMapped(client, TARGET + (IOVA % PAGE));
  });
  test('second stage', () => {
    const client = start({ [TC]: 1n, [IOHGATP]: SV39 | BigInt(SECOND >>> 12) });
    // The root of a second stage has four pages.
    mapPage(client, SECOND, 3, IOVA, TARGET, (at, leaf) => entry(leaf ? at : at + 3 * PAGE, leaf));
    for (const level of [1, 2])
      client.ask(
        `write 0x${(SECOND + (level + 3) * PAGE).toString(16)} 0x1000 ${client.ask(`read 0x${(SECOND + level * PAGE).toString(16)} 0x1000`)}`,
      );
    expectMapped(client, TARGET + (IOVA % PAGE));
  });
  test('no context for the device', () => {
    expect(start({}).dma(TARGET, TARGET)).toBe(REFUSED);
  });
});

describe('VT-d', () => {
  const REGISTERS = 0xfed9_0000;
  const [ROOT, CONTEXT, DIRECTORY, PASIDS, TABLES, QUEUE, TARGET] = [
    0x10000, 0x11000, 0x13000, 0x14000, 0x20000, 0x30000, 0x40000,
  ] as const;
  const [GCMD, GSTS, RTADDR, IQT, IQA] = [0x18, 0x1c, 0x20, 0x88, 0x90] as const;
  const second = (at: number) => BigInt(at | 3);
  const first = (at: number) => BigInt(at | 0x67);
  const WIDTH_48 = 2n;

  function start(unit: UnitName, context: readonly bigint[]): Client {
    const client = new Client('q35', unit);
    client.writeq(ROOT, BigInt(CONTEXT | 1));
    for (const [i, word] of context.entries()) client.writeq(CONTEXT + 8 * (context.length * DEVICE + i), word);
    client.writeq(REGISTERS + RTADDR, BigInt(ROOT) | (unit === 'vtd-scalable' ? 1n << 10n : 0n));
    client.writeq(REGISTERS + IQA, QUEUE);
    client.writeq(REGISTERS + IQT, 0);
    let command = 0;
    // Root pointer, queued invalidation, translation.
    for (const bit of [30, 26, 31]) {
      client.writel(REGISTERS + GCMD, command | (1 << bit));
      expect(client.readl(REGISTERS + GSTS) & (1 << bit)).not.toBe(0);
      if (bit !== 30) command |= 1 << bit;
    }
    return client;
  }
  function startScalable(pasidEntry: readonly bigint[]): Client {
    const client = start('vtd-scalable', [BigInt(DIRECTORY | 1), 0n, 0n, 0n]);
    client.writeq(DIRECTORY, BigInt(PASIDS | 1));
    for (const [i, word] of pasidEntry.entries()) client.writeq(PASIDS + 8 * i, word);
    return client;
  }

  test('legacy pass-through', () => {
    expect(start('vtd', [0b1001n, WIDTH_48]).dma(TARGET, TARGET)).toBe(OK);
  });
  test('legacy second stage', () => {
    const client = start('vtd', [BigInt(TABLES | 1), WIDTH_48]);
    mapPage(client, TABLES, 4, IOVA, TARGET, second);
    expectMapped(client, TARGET + (IOVA % PAGE));
  });
  test('scalable pass-through', () => {
    expect(startScalable([(4n << 6n) | 1n, 0n]).dma(TARGET, TARGET)).toBe(OK);
  });
  test('scalable second stage', () => {
    const client = startScalable([BigInt(TABLES) | (2n << 6n) | (WIDTH_48 << 2n) | 1n, 0n]);
    mapPage(client, TABLES, 4, IOVA, TARGET, second);
    expectMapped(client, TARGET + (IOVA % PAGE));
  });
  test('scalable first stage', () => {
    const client = startScalable([(1n << 6n) | 1n, 0n, BigInt(TABLES)]);
    mapPage(client, TABLES, 4, IOVA, TARGET, first);
    expectMapped(client, TARGET + (IOVA % PAGE));
  });
  test('a reset brings every register back', () => {
    const client = startScalable([1n]);
    const all = `read 0x${REGISTERS.toString(16)} 0x1000`;
    const fresh = new Client('q35', 'vtd-scalable').ask(all);
    expect(fresh.slice(0, 10)).toBe('0x10000000');
    expect(client.ask(all)).not.toBe(fresh);
    client.machine.reset();
    expect(client.ask(all)).toBe(fresh);
  });
});

describe('AMD-Vi', () => {
  const REGISTERS = 0xfed8_0000;
  const [DEVICES, TABLES, COMMANDS, TARGET] = [0x100000, 0x20000, 0x200000, 0x40000] as const;
  const [COMMAND_BASE, CONTROL, HEAD, TAIL, STATUS] = [0x08, 0x18, 0x2000, 0x2008, 0x2020] as const;

  function start(entry: readonly bigint[]): Client {
    const client = new Client('q35', 'amd');
    for (const [i, word] of entry.entries()) client.writeq(DEVICES + 32 * DEVICE + 8 * i, word);
    client.writeq(REGISTERS, BigInt(DEVICES));
    client.writeq(REGISTERS + COMMAND_BASE, BigInt(COMMANDS) | (8n << 56n));
    client.writeq(REGISTERS + CONTROL, 1n | (1n << 12n));
    return client;
  }

  test('the head of the command buffer goes round with the tail', () => {
    const client = start([]);
    for (let i = 0; i < 256; i++) client.writeq(COMMANDS + 16 * i, 1n << 60n);
    client.writeq(REGISTERS + TAIL, 255 * 16);
    expect(client.readq(REGISTERS + HEAD)).toBe(255n * 16n);
    client.writeq(REGISTERS + TAIL, 0);
    expect([client.readq(REGISTERS + HEAD), client.readq(REGISTERS + STATUS) & 0x10n]).toEqual([0n, 0x10n]);
  });
  test('pass-through', () => {
    expect(start([3n | (3n << 61n)]).dma(TARGET, TARGET)).toBe(OK);
  });
  test('host tables', () => {
    const client = start([BigInt(TABLES) | (4n << 9n) | 3n | (3n << 61n), 1n]);
    const permissions = 3n << 61n;
    let level = 4;
    mapPage(client, TABLES, 4, IOVA, TARGET, (at) => BigInt(at) | (BigInt(--level) << 9n) | permissions | 1n);
    expectMapped(client, TARGET + (IOVA % PAGE));
  });
});

describe('SMMUv3', () => {
  const RAM = 0x4000_0000;
  const [STREAMS, CONTEXT, FIRST, SECOND, COMMANDS, EVENTS, TARGET] = [0x10000, 0x11000, 0x20000, 0x30000, 0x40000, 0x50000, 0x60000].map(
    (at) => RAM + at,
  ) as [number, number, number, number, number, number, number];
  const REGISTERS = 0x0905_0000;
  const [CR0, CR0ACK, GBPA, STRTAB_BASE, STRTAB_CFG, CMDQ_BASE, EVENTQ_BASE] = [0x20, 0x24, 0x44, 0x80, 0x88, 0x90, 0xa0] as const;
  const ACCESSED = 1 << 10;
  const first = (at: number, leaf: boolean) => BigInt(at) | (leaf ? BigInt(ACCESSED | 0x763) : 3n);
  const second = (at: number, leaf: boolean) => BigInt(at) | (leaf ? BigInt(ACCESSED | 0x7ff) : 3n);
  /** 48 bits of input from level 0 on, 4 KiB granule, 48 bits of output, AArch64. */
  const S2 = [(16n << 32n) | (2n << 38n) | (5n << 48n) | (1n << 51n) | (1n << 58n), BigInt(SECOND)] as const;

  function start(config: bigint): Client {
    const client = new Client('arm-virt');
    const [settings, table] = S2;
    for (const [i, word] of [1n | (config << 1n) | BigInt(CONTEXT), 0n, settings, table].entries())
      client.writeq(STREAMS + 64 * DEVICE + 8 * i, word);
    // 48-bit input, TTBR1 off, valid, 48-bit output, AArch64, fault record, abort, ASID 1.
    const context = 16n | (1n << 30n) | (1n << 31n) | (5n << 32n) | (1n << 41n) | (1n << 45n) | (1n << 46n) | (1n << 48n);
    client.writeq(CONTEXT, context);
    client.writeq(CONTEXT + 8, FIRST);
    client.writel(REGISTERS + GBPA, 0x8000_0000);
    client.writeq(REGISTERS + CMDQ_BASE, BigInt(COMMANDS | 8));
    client.writeq(REGISTERS + EVENTQ_BASE, BigInt(EVENTS | 8));
    client.writel(REGISTERS + STRTAB_CFG, 5);
    client.writeq(REGISTERS + STRTAB_BASE, BigInt(STREAMS));
    client.writel(REGISTERS + CR0, 0xd);
    expect(client.readl(REGISTERS + CR0ACK)).toBe(0xd);
    return client;
  }

  test('first stage', () => {
    const client = start(5n);
    mapPage(client, FIRST, 4, IOVA, TARGET, first);
    expectMapped(client, TARGET + (IOVA % PAGE));
  });
  test('second stage', () => {
    const client = start(6n);
    mapPage(client, SECOND, 4, IOVA, TARGET, second);
    expectMapped(client, TARGET + (IOVA % PAGE));
  });
  test('nested: the descriptor, the tables and the page lie where the second stage says', () => {
    const client = start(7n);
    mapPage(client, FIRST, 4, IOVA, TARGET, first);
    // All of them within 2 MiB: one table has them.
    for (const page of [CONTEXT, FIRST, FIRST + PAGE, FIRST + 2 * PAGE, FIRST + 3 * PAGE, TARGET])
      mapPage(client, SECOND, 4, page, page, second);
    expectMapped(client, TARGET + (IOVA % PAGE));
  });
  test('aborts where nothing is configured', () => {
    expect(start(0n).dma(IOVA, TARGET)).toBe(REFUSED);
  });
});

test('a machine has the IOMMUs that QEMU’s has', () => {
  expect(() => new Client('riscv-virt', 'amd')).toThrow('testMachine: unit amd is none of riscv-virt');
});
