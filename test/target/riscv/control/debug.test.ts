import { beforeEach, describe, expect, test } from 'vitest';
import { READ, READ_WRITE, WRITE } from '../../../../src/memory/access.ts';
import { get, getWide } from '../../../../src/target/fields.ts';
import { TR_REQ_CTL, TR_REQ_IOVA, TR_RESPONSE, TR_RESPONSE_FIELDS } from '../../../../src/target/riscv/spec/registers.ts';
import { Guest, type GuestTable } from '../guest.ts';

/* RISC-V IOMMU, "Debug support": a translation that software asks for by registers. */

const DEVICE = 8;
const GO = 1n;
const PRIV = 2n;
const EXE = 4n;
const NW = 8n;
const PV = 1n << 32n;

describe('a translation request by registers', () => {
  let guest: Guest;
  let first: GuestTable;

  beforeEach(() => {
    guest = new Guest();
    guest.start();
    first = guest.table('sv39');
    guest.setContext(DEVICE, { first: { mode: 8, root: first.root, pscid: 1 } });
    first.table.map(0x123, 0x345, 1, READ);
    first.table.map(0x400, 0x600, 512, READ_WRITE);
  });

  /** tr_response, field by field. */
  function ask(iova: bigint, control: bigint, device = DEVICE) {
    guest.iommu.write(TR_REQ_IOVA, 8, iova);
    guest.iommu.write(TR_REQ_CTL, 8, (BigInt(device) << 40n) | control | GO);
    // Done when the write returns.
    expect(guest.iommu.read(TR_REQ_CTL, 8) & GO).toBe(0n);
    const response = guest.iommu.read(TR_RESPONSE, 8);
    const words = Int32Array.of(Number(response & 0xffff_ffffn) | 0, Number(response >> 32n) | 0);
    const { FAULT, PBMT, S, PPN } = TR_RESPONSE_FIELDS;
    return { fault: get(words, FAULT), pbmt: get(words, PBMT), s: get(words, S), ppn: getWide(words, PPN) };
  }

  test('a page of 4 KiB: its number, whatever lies below bit 12 of the address', () => {
    expect(ask(0x12_3abcn, NW)).toEqual({ fault: 0, pbmt: 0, s: 0, ppn: 0x345 });
    expect(guest.iommu.read(TR_REQ_IOVA, 8)).toBe(0x12_3000n);
  });

  test('a superpage: S, and its size in the lowest bits of PPN, up to the first 0', () => {
    expect(ask(0x4f_f000n, NW)).toEqual({ fault: 0, pbmt: 0, s: 1, ppn: 0x600 | 0xff });
  });

  test('Svpbmt’s memory type of the leaf', () => {
    // Root entry 2, a leaf of 1 GiB: D, A, U, W, R, V, and PBMT 1 (NC).
    guest.memory.store64(0, first.root * 4096 + 16, 1 << 29, (0x4_0000 * 1024 * 4) | 0xd7);
    expect(ask(0x8000_0000n, NW)).toMatchObject({ fault: 0, pbmt: 1, s: 1 });
  });

  test.each([
    ['NW 0 is a write', 0n, 1],
    ['NW 1 is a read', NW, 0],
    ['EXE with NW is an instruction fetch', NW | EXE, 1],
    ['EXE without NW is a write', EXE, 1],
  ])('%s: of a page for reading', (_, control, fault) => {
    expect(ask(0x12_3000n, control).fault).toBe(fault);
  });

  test('a fault: nothing but that bit', () => {
    ask(0x12_3000n, NW);
    expect(ask(0x12_4000n, NW)).toEqual({ fault: 1, pbmt: 0, s: 0, ppn: 0 });
    expect(ask(0x12_3000n, NW, 9).fault).toBe(1);
  });

  test('PV and PID: the process’ first stage; PRIV: with the supervisor’s rights, where the context enables them', () => {
    const directory = guest.pool.allocate(1);
    const process = guest.table('sv39');
    process.table.map(0x123, 0x222, 1, READ | WRITE);
    // DC.tc.PDTV; PD8. ta: V, ENS, PSCID 7; fsc: Sv39.
    guest.setContext(DEVICE, { first: { mode: 1, root: directory, pscid: 0 }, tc: 1 << 5 });
    guest.memory.store64(0, directory * 4096 + 16 * 3 + 8, 8 << 28, process.root);
    guest.memory.store64(0, directory * 4096 + 16 * 3, 0, (7 << 12) | 3);
    const pid = PV | (3n << 12n);
    expect(ask(0x12_3000n, pid)).toEqual({ fault: 0, pbmt: 0, s: 0, ppn: 0x222 });
    // A supervisor reaches no page of users without SUM.
    expect(ask(0x12_3000n, pid | PRIV).fault).toBe(1);
    expect(ask(0x12_3000n, PV | (4n << 12n)).fault).toBe(1);
  });
});
