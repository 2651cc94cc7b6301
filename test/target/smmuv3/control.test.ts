import { describe, expect, test } from 'vitest';
import { READ, WRITE } from '../../../src/memory/access.ts';
import { targetFault } from '../../../src/target/fault-codes.ts';
import { EVENT, type Features } from '../../../src/target/smmuv3/index.ts';
import { CERROR, OPCODE } from '../../../src/target/smmuv3/spec/commands.ts';
import { GERROR, REG } from '../../../src/target/smmuv3/spec/registers.ts';
import { CONFIG } from '../../../src/target/smmuv3/spec/ste.ts';
import {
  COMMANDS,
  CONTEXTS,
  type Command,
  cfgiAll,
  cfgiCd,
  cfgiSte,
  contextOf,
  DONE,
  EVENTS,
  Guest,
  PAGE_1,
  QUEUE_LG2,
  stage2Of,
  sync,
  tlbiAll,
  tlbiAsid,
  tlbiIpa,
  tlbiRange,
  tlbiVa,
  tlbiVmid,
} from './guest.ts';

const STREAM = 8;
const STAGE_1 = { CONFIG: CONFIG.stage1, S1CONTEXT_PTR: CONTEXTS / 64 };

describe('registers, 6.3', () => {
  test('ID registers: what the features say', () => {
    const guest = new Guest({ features: { SIDSIZE: 10, OAS: 5, STALL_MAX: 7 } });
    expect(guest.read(REG.IDR1) & 0x3f).toBe(10);
    expect(guest.read(REG.IDR5) >>> 16).toBe(7);
    expect(guest.read(REG.IDR5) & 7).toBe(5);
    guest.write(REG.IDR0, 0);
    expect(guest.read(REG.IDR0)).not.toBe(0);
  });

  test('CR0ACK follows CR0, IRQ_CTRLACK IRQ_CTRL; reserved bits stay 0', () => {
    const guest = new Guest();
    guest.write(REG.CR0, -1);
    expect([guest.read(REG.CR0), guest.read(REG.CR0ACK)]).toEqual([0x1df, 0x1df]);
    guest.write(REG.IRQ_CTRL, -1);
    expect([guest.read(REG.IRQ_CTRL), guest.read(REG.IRQ_CTRLACK)]).toEqual([7, 7]);
  });

  test.each<[string, number, number]>([
    ['STRTAB_BASE', REG.STRTAB_BASE, 1],
    ['STRTAB_BASE_CFG', REG.STRTAB_BASE_CFG, 1],
    ['CR2', REG.CR2, 1],
    ['CMDQ_BASE', REG.CMDQ_BASE, 8],
    ['CMDQ_CONS', REG.CMDQ_CONS, 8],
    ['EVENTQ_BASE', REG.EVENTQ_BASE, 4],
    ['EVENTQ_PROD', PAGE_1 + REG.EVENTQ_PROD, 4],
    ['PRIQ_BASE', REG.PRIQ_BASE, 2],
    ['PRIQ_PROD', PAGE_1 + REG.PRIQ_PROD, 2],
  ])('%s is writable while what it configures is off, ignored otherwise', (_, offset, enable) => {
    const guest = new Guest();
    // Of an index a queue of one entry has the wrap flag alone; there are no commands.
    guest.write(REG.CMDQ_PROD, 1);
    guest.write(offset, offset === REG.CR2 ? 2 : offset === REG.STRTAB_BASE ? 0x40 : 0x43);
    const before = guest.read(offset);
    expect(before).not.toBe(0);
    guest.write(REG.CR0, enable);
    guest.write(offset, 0);
    expect(guest.read(offset)).toBe(before);
    guest.write(REG.CR0, 0);
    guest.write(offset, 0);
    expect(guest.read(offset)).toBe(0);
  });

  test('MSI configuration is guarded by its interrupt’s enable', () => {
    const guest = new Guest();
    guest.write(REG.IRQ_CTRL, 4);
    guest.write64(REG.EVENTQ_IRQ_CFG0, 0x1000n);
    guest.write64(REG.GERROR_IRQ_CFG0, 0x1001n);
    expect([guest.smmu.read(REG.EVENTQ_IRQ_CFG0, 8), guest.smmu.read(REG.GERROR_IRQ_CFG0, 8)]).toEqual([0n, 0x1000n]);
  });

  test.each([
    ['SMMUEN', 1, 0x03f],
    ['PRIQEN', 2, 0xfc0],
    ['EVENTQEN', 4, 0xfc0],
    ['CMDQEN', 8, 0xfc0],
  ])('CR1: attributes of what %s turns on are read-only (6.3.11)', (_, enable, writable) => {
    const guest = new Guest();
    guest.write(REG.CR0, enable);
    guest.write(REG.CR1, -1);
    expect(guest.read(REG.CR1)).toBe(writable);
    guest.write(REG.CR0, 0);
    guest.write(REG.CR1, -1);
    expect(guest.read(REG.CR1)).toBe(0xfff);
    guest.write(REG.CR0, enable);
    guest.write(REG.CR1, 0);
    expect(guest.read(REG.CR1)).toBe(0xfff & ~writable);
  });

  test('GBPA lets everything pass as it comes at reset, and keeps each of its fields (6.3.14)', () => {
    const guest = new Guest();
    expect(guest.read(REG.GBPA)).toBe(1 << 12);
    guest.write(REG.GBPA, -1);
    expect(guest.read(REG.GBPA)).toBe(0x1f_3f1f);
    // Saved, what is 0 comes back as 0.
    guest.write(REG.GBPA, 1 << 31);
    guest.smmu.load(guest.smmu.save());
    expect(guest.read(REG.GBPA)).toBe(0);
    guest.smmu.reset();
    expect(guest.read(REG.GBPA)).toBe(1 << 12);
  });

  test.each([
    ['IDR2', REG.IDR2],
    ['IDR4', REG.IDR4],
    ['IIDR', REG.IIDR],
    ['S2PII', 0x30],
    ['STATUSR', REG.STATUSR],
    ['AGBPA', 0x48],
    ['MPAMIDR', 0x130],
    ['VATOS_SEL', REG.VATOS_SEL],
    ['IDR6', REG.IDR6],
    ['DPT_BASE', 0x200],
    ['CMDQ_CONTROL_PAGE_BASE0', 0x4000],
    ['S_IDR0', 0x8000],
    ['S_CR0', 0x8020],
    ['S_STRTAB_BASE', 0x8080],
    ['S_EVENTQ_PROD', PAGE_1 + 0x80a8],
  ])('%s says that there is nothing of it: it reads 0 and ignores writes (6.2)', (_, offset) => {
    const guest = new Guest();
    const before = guest.smmu.save();
    for (const bytes of [4, 8]) {
      if (offset % bytes === 0) guest.smmu.write(offset, bytes, 2n ** BigInt(8 * bytes) - 1n);
      expect(guest.read(offset)).toBe(0);
    }
    // The register behind a read-only one of 32 bits may be another.
    if (offset >= 0x100) expect(guest.smmu.save()).toEqual(before);
  });

  test('page 1 has the indices of event and PRI queue alone; odd sizes, places and alignments read 0 and are ignored', () => {
    const guest = new Guest();
    guest.write(PAGE_1 + REG.EVENTQ_CONS, 5);
    expect(guest.read(PAGE_1 + REG.EVENTQ_CONS)).toBe(5);
    expect(guest.read(PAGE_1 + REG.IDR0)).toBe(0);
    for (const [offset, bytes] of [
      [0, 2],
      [2, 4],
      [4, 8],
      [0x2_0000, 4],
      [-4, 4],
      [0.5, 4],
    ]) {
      guest.smmu.write(offset, bytes, 0xffn);
      expect(guest.smmu.read(offset, bytes)).toBe(0n);
    }
  });

  test.each<[Partial<Features>, number]>([
    [{}, 0x1fd],
    [{ MSI: 0 }, 0x10d],
    [{ PRI: 0 }, 0x1b5],
    [{ MSI: 0, PRI: 0 }, 0x105],
  ])('GERRORN with %j: errors that there are not are RES0 (6.3.20)', (features, mask) => {
    const guest = new Guest({ features });
    guest.write(REG.GERRORN, -1);
    expect(guest.read(REG.GERRORN)).toBe(mask);
  });

  test.each<[Partial<Features>, number[]]>([
    [{}, [0x3f, 0x3f, 0x8000_003f]],
    [{ MSI: 0 }, [0, 0, 0]],
    [{ PRI: 0 }, [0x3f, 0x3f, 0]],
  ])('*_IRQ_CFG2 with %j: there with MSIs alone, the PRI queue’s with that queue (6.3.23, 6.3.32, 6.3.36)', (features, expected) => {
    const guest = new Guest({ features });
    const registers = [REG.GERROR_IRQ_CFG2, REG.EVENTQ_IRQ_CFG2, REG.PRIQ_IRQ_CFG2];
    for (const offset of registers) guest.write(offset, -1);
    expect(registers.map((offset) => guest.read(offset))).toEqual(expected);
  });

  test.each([
    ['CMDQ_CONS', REG.CMDQ_CONS, REG.CMDQ_BASE, 0xf_ffff],
    ['EVENTQ_PROD', PAGE_1 + REG.EVENTQ_PROD, REG.EVENTQ_BASE, -1],
    ['PRIQ_PROD', PAGE_1 + REG.PRIQ_PROD, REG.PRIQ_BASE, -1],
  ])('%s: no bits above the wrap flag (6.3.28, 6.3.95)', (_, index, base, written) => {
    const guest = new Guest();
    guest.write64(base, 4n);
    guest.write(index, written);
    const flag = written < 0 ? 0x8000_0000 : 0;
    expect(guest.read(index)).toBe(flag + 0x1f);
    // 31 is taken as the most that there is.
    guest.write64(base, 31n);
    expect(guest.read(index)).toBe(flag + 0x7fff);
  });

  test('addresses beyond OAS are not kept', () => {
    const guest = new Guest({ features: { OAS: 4 } });
    guest.write64(REG.STRTAB_BASE, 0x00ff_ffff_ffff_ffc0n);
    expect(guest.smmu.read(REG.STRTAB_BASE, 8)).toBe(0x0fff_ffff_ffc0n);
  });
});

describe('command errors, 7.1', () => {
  const illegal: [string, Command, Partial<Features>?][] = [
    ['opcode 0', [0n, 0n]],
    ['an opcode that is not there', [0xffn, 0n]],
    ['a command of the secure queue', [0x60n, 0n]],
    ['TLBI_EL3_ALL', [0x18n, 0n]],
    ['SSec', [BigInt(OPCODE.CFGI_STE) | (1n << 10n), 0n]],
    ['CMD_SYNC with CS 3', sync(3n << 12n)],
    ['TG without range or level', [BigInt(OPCODE.TLBI_NH_VA), 1n << 10n]],
    ['level 1 of 16K tables without 52-bit addresses', tlbiRange(1, 0, { num: 0, scale: 0, tg: 2, ttl: 1 }), { DS: 0 }],
    ['CFGI_CD without stage 1', cfgiCd(1), { S1P: 0 }],
    ['TLBI_NH_ASID without stage 1', tlbiAsid(1), { S1P: 0 }],
    ['TLBI_S12_VMALL without stage 2', tlbiVmid(1), { S2P: 0 }],
    ['TLBI_S2_IPA without stage 2', tlbiIpa(1, 1), { S2P: 0 }],
    ['TLBI_EL2_ALL without Hyp', [BigInt(OPCODE.TLBI_EL2_ALL), 0n], { Hyp: 0 }],
    ['ATC_INV without ATS', [BigInt(OPCODE.ATC_INV), 0n], { ATS: 0 }],
    ['ATC_INV of more than everything', [BigInt(OPCODE.ATC_INV), 53n]],
    ['PRI_RESP without PRI', [BigInt(OPCODE.PRI_RESP), 0n], { PRI: 0 }],
    ['PRI_RESP with response 3', [BigInt(OPCODE.PRI_RESP), 3n << 12n]],
    ['RESUME without stalls', [BigInt(OPCODE.RESUME), 0n], { STALL_MODEL: 1 }],
    ['STALL_TERM without stalls', [BigInt(OPCODE.STALL_TERM), 0n], { STALL_MODEL: 1 }],
  ];
  test.each(illegal)('CERROR_ILL: %s; the queue goes on where it stopped, once the guest has acknowledged', (_, command, features = {}) => {
    const guest = new Guest({ features }).start();
    guest.write(REG.IRQ_CTRL, 1);
    guest.command(sync(), command, sync(1n << 12n, BigInt(DONE)));
    expect([guest.error, guest.read(REG.CMDQ_CONS) & 0xf_ffff]).toEqual([CERROR.ILL, 1]);
    expect(guest.interrupts).toEqual(['gerror']);
    // Repaired, as drivers do it.
    const [low, high] = sync();
    guest.store(COMMANDS + 16, low);
    guest.store(COMMANDS + 24, high);
    guest.write(REG.GERRORN, guest.read(REG.GERROR));
    expect([guest.error, guest.read(REG.CMDQ_CONS) & 0xf_ffff]).toEqual([0, 3]);
    expect(guest.interrupts).toEqual(['gerror', 'sync']);
  });

  test('CERROR_ABT: the queue is not in memory', () => {
    const guest = new Guest();
    guest.write64(REG.CMDQ_BASE, 0x4000_0008n);
    guest.write(REG.CR0, 8);
    guest.write(REG.CMDQ_PROD, 1);
    expect([guest.error, guest.read(REG.CMDQ_CONS) & 0xf_ffff]).toEqual([CERROR.ABT, 0]);
  });

  test('commands run when the queue is enabled, and not before', () => {
    const guest = new Guest();
    guest.write64(REG.CMDQ_BASE, BigInt(COMMANDS | QUEUE_LG2));
    guest.command(sync(), sync());
    expect(guest.read(REG.CMDQ_CONS)).toBe(0);
    guest.write(REG.CR0, 8);
    expect(guest.read(REG.CMDQ_CONS)).toBe(2);
  });

  test('a queue that never ends costs at most its own length of commands an access', () => {
    const guest = new Guest();
    for (let i = 0; i < 256; i++) guest.storeWords(COMMANDS + 16 * i, [OPCODE.TLBI_NSNH_ALL, 0, 0, 0]);
    guest.write64(REG.CMDQ_BASE, BigInt(COMMANDS | QUEUE_LG2));
    let loads = 0;
    const load = guest.memory.load64.bind(guest.memory);
    guest.memory.load64 = (hi, lo) => {
      loads++;
      return load(hi, lo);
    };
    // The write index is further than a full queue.
    guest.write(REG.CMDQ_PROD, 0x1ff);
    guest.write(REG.CR0, 8);
    expect(loads).toBe(2 * 256);
  });
});

describe('CMD_SYNC, 4.7.3', () => {
  test('SIG_IRQ: a wired interrupt and a message, to RAM or elsewhere; one that nothing takes is MSI_CMDQ_ABT_ERR', () => {
    const guest = new Guest().start();
    const irq = (data: bigint) => (1n << 12n) | (data << 32n);
    guest.command(sync(irq(0x77n), BigInt(DONE)), sync(irq(0x88n), 0x4000_0040n), sync(irq(1n), 0n));
    expect(guest.interrupts).toEqual(['sync', 'sync', 'sync']);
    expect([guest.load(DONE), guest.messages]).toEqual([0x77n, [[0x4000_0040n, 0x88]]]);
    guest.command(sync(irq(0x99n), 1n << 41n));
    expect(guest.read(REG.GERROR)).toBe(1 << GERROR.MSI_CMDQ_ABT_ERR.shift);
    expect(guest.error).toBe(0);
  });

  test('MSIAddress is truncated to OAS (3.4.3); whether there is one is asked of all of it', () => {
    const guest = new Guest({ features: { OAS: 4 } }).start();
    guest.command(sync((1n << 12n) | (0x55n << 32n), (1n << 46n) | BigInt(DONE)), sync((1n << 12n) | (0x66n << 32n), 1n << 46n));
    expect([guest.load(DONE), guest.load(0), guest.messages]).toEqual([0x55n, 0x66n, []]);
  });

  test('SIG_NONE and SIG_SEV tell nobody', () => {
    const guest = new Guest().start();
    guest.command(sync(0n, BigInt(DONE)), sync(2n << 12n, BigInt(DONE)));
    expect([guest.interrupts, guest.load(DONE)]).toEqual([[], 0n]);
  });

  test('what the observer hears: the commands, the ranges, and a flush before the completion', () => {
    const guest = new Guest();
    const table = guest.table();
    table.table.map(0, 0x80, 512, 3);
    guest.setContext(0, contextOf(7, table));
    guest.start().setStream(STREAM, STAGE_1);
    guest.smmu.addEndpoint(STREAM);
    const said: unknown[] = [];
    guest.smmu.observe({
      attach: (endpoint, space) => said.push([endpoint, space?.name ?? null]) && 0,
      changed: (_, first, last) => void said.push([first, last]),
      invalidated: (words, endpoint) => void said.push([words[0] & 0xff, endpoint]),
      flush: () => said.push(['flush', guest.load(DONE)]) && 0,
    });
    guest.command(tlbiVa(7, 3), tlbiVa(7, 4), cfgiCd(STREAM), sync((1n << 12n) | (1n << 32n), BigInt(DONE)));
    expect(said).toEqual([
      [STREAM, 'VMID 0, ASID 7'],
      [OPCODE.TLBI_NH_VA, -1],
      [3, 3],
      [OPCODE.TLBI_NH_VA, -1],
      [4, 4],
      [OPCODE.CFGI_CD, STREAM],
      ['flush', 0n],
    ]);
    expect(guest.load(DONE)).toBe(1n);
  });

  // 3.18: Linux waits in memory for the message of CMD_SYNC.
  test('tables that lead to themselves, and invalidations of all of them: an access ends, and the rest follows by itself', () => {
    const later: (() => void)[] = [];
    const guest = new Guest({ schedule: (work) => void later.push(work) });
    // 4 × 512 × 512 pages: two enumerations.
    const { root, ...table } = guest.table({ inputBits: 32 });
    for (let i = 0; i < 512; i++) guest.store(root * 4096 + 8 * i, (BigInt(root) << 12n) | 3n);
    guest.setContext(0, contextOf(7, { root, ...table }));
    guest.start().setStream(STREAM, STAGE_1);
    guest.smmu.addEndpoint(STREAM);
    let changes: (() => void)[] = [];
    let reads = true;
    guest.smmu.observe({
      attach: () => 0,
      changed: (space, first, last) => void changes.push(() => void space.enumerate(first, last, () => true)),
      flush: () => {
        if (reads) for (const change of changes) change();
        changes = [];
        return 0;
      },
    });
    guest.command(tlbiAsid(7), sync(), tlbiAsid(7), sync((1n << 12n) | (1n << 32n), BigInt(DONE)));
    expect([guest.load(DONE), later.length]).toEqual([0n, 1]);
    reads = false;
    while (later.length > 0) later.shift()!();
    expect(guest.load(DONE)).toBe(1n);
    expect(guest.read(REG.CMDQ_CONS)).toBe(guest.read(REG.CMDQ_PROD));
  });

  // 4.4.2: what CMD_TLBI_NH_VA names matches the ASID or is global.
  test('an address of one ASID is said to other ASIDs only where a global page was met', () => {
    const guest = new Guest();
    guest.start();
    const tables = [1, 2].map((asid) => {
      const made = guest.table();
      made.table.map(3, 0x20, 1, READ);
      guest.setContext(asid, contextOf(asid, made));
      guest.setStream(asid, { CONFIG: CONFIG.stage1, S1CONTEXT_PTR: CONTEXTS / 64 + asid });
      guest.smmu.addEndpoint(asid);
      return made;
    });
    const said: string[] = [];
    guest.smmu.observe({
      attach: (_, space) => {
        space?.enumerate(0, 0xff, () => true);
        return 0;
      },
      changed: (space) => void said.push(space.name),
      flush: () => 0,
    });
    guest.command(tlbiVa(1, 3), sync());
    expect(said).toEqual(['VMID 0, ASID 1']);
    guest.command(tlbiVa(2, 3), sync());
    expect(said).toEqual(['VMID 0, ASID 1', 'VMID 0, ASID 2']);
    said.length = 0;
    // ASID 2's page becomes a global one; whoever hears of it reads it.
    let leaf = BigInt(tables[1].root) << 12n;
    for (let level = 0; level < 2; level++) leaf = guest.load(Number(leaf)) & 0xffff_ffff_f000n;
    guest.store(Number(leaf) + 3 * 8, guest.load(Number(leaf) + 3 * 8) & ~(1n << 11n));
    guest.smmu.spaceOf(2)!.enumerate(0, 0xff, () => true);
    guest.command(tlbiVa(1, 3), sync());
    expect(said).toEqual(['VMID 0, ASID 1', 'VMID 0, ASID 2']);
    said.length = 0;
    guest.command(tlbiAsid(1), sync());
    expect(said).toEqual(['VMID 0, ASID 1']);
  });

  test('stageOf: the entry as hardware takes it over, abort, bypass, or nothing', () => {
    const guest = new Guest();
    const table = guest.table();
    guest.setContext(0, contextOf(7, table));
    guest.start().setStream(STREAM, { ...STAGE_1, S1CIR: 1, S1COR: 1, S1CSH: 3, EATS: 1, SHCFG: 1 });
    guest.smmu.addEndpoint(STREAM);
    const stage = (values: Record<string, number>) => {
      guest.setStream(STREAM, values);
      guest.command(cfgiSte(STREAM));
      return guest.smmu.stageOf(STREAM);
    };
    expect(guest.smmu.stageOf(STREAM)).toEqual({ kind: 'smmuv3', ste: [BigInt(CONTEXTS) | 0xbn, 0x1000_00d4n] });
    expect(guest.smmu.stageOf(STREAM, 5)).toEqual({ kind: 'abort' });
    expect(stage({ ...STAGE_1, PRIVCFG: 3 })).toBeNull();
    expect(stage({ ...STAGE_1, STRW: 2 })).toBeNull();
    expect(stage({ ...STAGE_1, S2VMID: 3 })).toBeNull();
    expect(stage({ CONFIG: CONFIG.stage2, ...stage2Of(1, guest.table({ stage: 2 })) })).toBeNull();
    expect(stage({ CONFIG: CONFIG.bypass })).toEqual({ kind: 'bypass' });
    expect(stage({ CONFIG: 0 })).toEqual({ kind: 'abort' });
    expect(stage({ V: 0 })).toEqual({ kind: 'abort' });
    guest.write(REG.CR0, 0);
    expect(guest.smmu.stageOf(STREAM)).toEqual({ kind: 'bypass' });
    expect(guest.smmu.stageOf(STREAM + 1)).toEqual({ kind: 'abort' });
  });
});

describe('TLB invalidation, 4.4', () => {
  /** Pages 0, 1, 2 and 16 through stage 1; `move` has the table say another output. */
  function cached(asid = 7, features: Partial<Features> = {}) {
    const guest = new Guest({ features });
    const table = guest.table();
    table.table.map(0, 0x81, 64, 3);
    guest.setContext(0, contextOf(asid, table));
    guest.start().setStream(STREAM, STAGE_1);
    const landings = () => [0, 1, 2, 16].map((page) => Number(guest.access(STREAM, BigInt(page) << 12n, READ) >> 12n));
    expect(landings()).toEqual([0x81, 0x82, 0x83, 0x91]);
    table.table.unmap(0, 64);
    table.table.map(0, 0xa1, 64, 3);
    expect(landings()).toEqual([0x81, 0x82, 0x83, 0x91]);
    return { guest, landings };
  }
  const OLD = [0x81, 0x82, 0x83, 0x91];
  const NEW = [0xa1, 0xa2, 0xa3, 0xb1];

  test.each<[string, Command, number[]]>([
    ['TLBI_NH_VA: its page', tlbiVa(7, 0), [0xa1, 0x82, 0x83, 0x91]],
    ['TLBI_NH_VA of another ASID', tlbiVa(8, 0), OLD],
    ['TLBI_NH_VA of another VMID', tlbiVa(7, 0, 1), OLD],
    ['TLBI_NH_VA: 2 pages by NUM', tlbiRange(7, 0, { num: 1, scale: 0 }), [0xa1, 0xa2, 0x83, 0x91]],
    ['TLBI_NH_VA: 16 pages by SCALE', tlbiRange(7, 1, { num: 0, scale: 4 }), [0x81, 0xa2, 0xa3, 0xb1]],
    ['TLBI_NH_VA: a 64K granule', tlbiRange(7, 0, { num: 0, scale: 0, tg: 3, ttl: 3 }), [0xa1, 0xa2, 0xa3, 0x91]],
    ['TLBI_NH_VA: a range beyond the top of the address space', tlbiRange(7, 2 ** 52 - 16, { num: 31, scale: 31 }), OLD],
    ['TLBI_NH_VAA: every ASID', [BigInt(OPCODE.TLBI_NH_VAA), 0n], NEW],
    ['TLBI_NH_ASID', tlbiAsid(7), NEW],
    ['TLBI_NH_ASID of another ASID', tlbiAsid(8), OLD],
    ['TLBI_NH_ALL', [BigInt(OPCODE.TLBI_NH_ALL), 0n], NEW],
    ['TLBI_S12_VMALL', tlbiVmid(0), NEW],
    ['TLBI_S12_VMALL of another VMID', tlbiVmid(1), OLD],
    ['TLBI_NSNH_ALL', tlbiAll(), NEW],
    ['TLBI_EL2_ALL', [BigInt(OPCODE.TLBI_EL2_ALL), 0n], OLD],
    ['CFGI_ALL: configurations alone', cfgiAll(), OLD],
  ])('%s', (_, command, expected) => {
    const { guest, landings } = cached();
    guest.command(command, sync());
    expect(guest.error).toBe(0);
    expect(landings()).toEqual(expected);
  });

  test('without RIL there are no ranges', () => {
    const { guest, landings } = cached(7, { RIL: 0 });
    guest.command(tlbiRange(7, 0, { num: 1, scale: 0 }));
    expect([guest.error, landings()]).toEqual([0, [0xa1, 0x82, 0x83, 0x91]]);
  });

  test('SCALE has 5 bits without 52-bit addresses, and the sixth is reserved (4.4.1.1)', () => {
    const range = tlbiRange(7, 0, { num: 0, scale: 33 });
    const narrow = cached(7, { DS: 0 });
    narrow.guest.command(range);
    expect([narrow.guest.error, narrow.landings()]).toEqual([0, [0xa1, 0xa2, 0x83, 0x91]]);
    const wide = cached();
    wide.guest.command(range);
    expect([wide.guest.error, wide.landings()]).toEqual([0, NEW]);
    // What is left of it is a granule with neither a range nor a level.
    const alone = cached(7, { DS: 0 });
    alone.guest.command(tlbiRange(7, 0, { num: 0, scale: 32 }));
    expect([alone.guest.error, alone.landings()]).toEqual([CERROR.ILL, OLD]);
  });

  test('CR0.VMW: VMIDs that differ below the wildcard are one', () => {
    const { guest, landings } = cached();
    guest.command(tlbiVmid(3));
    expect(landings()).toEqual(OLD);
    guest.write(REG.CR0, 0b1101 | (2 << 6));
    guest.command(tlbiVmid(4));
    expect(landings()).toEqual(OLD);
    guest.command(tlbiVmid(3));
    expect(landings()).toEqual(NEW);
  });

  test('without stage 2 there are no VMIDs', () => {
    const { guest, landings } = cached(7, { S2P: 0 });
    guest.command(tlbiVa(7, 0, 5));
    expect(landings()).toEqual([0xa1, 0x82, 0x83, 0x91]);
  });

  test('TLBI_S2_IPA: the page of stage 2 alone', () => {
    const guest = new Guest();
    const table = guest.table({ stage: 2 });
    table.table.map(0, 0x80, 4, 3);
    guest.start().setStream(STREAM, { CONFIG: CONFIG.stage2, ...stage2Of(9, table) });
    const landings = () => [0, 1].map((page) => Number(guest.access(STREAM, BigInt(page) << 12n, READ) >> 12n));
    expect(landings()).toEqual([0x80, 0x81]);
    table.table.unmap(0, 4);
    table.table.map(0, 0xa0, 4, 3);
    guest.command(tlbiIpa(8, 0));
    expect(landings()).toEqual([0x80, 0x81]);
    guest.command(tlbiIpa(9, 0));
    expect(landings()).toEqual([0xa0, 0x81]);
    // Bits above the widest IPA are reserved, and ignored.
    const [low, high] = tlbiIpa(9, 1);
    guest.command([low, high | (0xfffn << 52n)]);
    expect(landings()).toEqual([0xa0, 0xa1]);
  });

  test('both stages: an address takes with it every piece that was made of its large page', () => {
    const guest = new Guest();
    const first = guest.table();
    const second = guest.table({ stage: 2, inputBits: 32 });
    second.table.map(0, 0, 512, 7);
    // One 2 MiB block of stage 1 over scattered pages of stage 2.
    first.table.map(0, 0x400, 512, 3);
    for (let page = 0; page < 512; page++) second.table.map(0x400 + page, 0x100 + ((page * 7) % 251), 1, 3);
    guest.setContext(0, contextOf(7, first));
    guest.start().setStream(STREAM, { ...STAGE_1, ...stage2Of(5, second), CONFIG: CONFIG.nested });
    const landing = (page: number) => Number(guest.access(STREAM, BigInt(page) << 12n, READ) >> 12n);
    expect([landing(1), landing(100)]).toEqual([0x107, 0x100 + (700 % 251)]);
    first.table.unmap(0, 512);
    guest.command(tlbiVa(7, 1, 5));
    expect(guest.access(STREAM, 100n << 12n, READ)).toBe(BigInt(targetFault('smmuv3', EVENT.F_TRANSLATION)));
  });

  test('a global page goes with an address of any ASID', () => {
    const { guest, landings } = cached(7);
    // nG of page 0's descriptor is cleared: the last level's table is what the walk reads third.
    guest.command(tlbiAll());
    expect(landings()).toEqual(NEW);
    const global = new Guest();
    const table = global.table();
    table.table.map(0, 0x81, 1, 3);
    const pages = Array.from({ length: 64 }, (_, i) => 0x1_0000 + 4096 * i);
    const at = pages
      .flatMap((page) => Array.from({ length: 512 }, (_, i) => page + 8 * i))
      .find((entry) => (global.load(entry) & 0xf_f003n) === 0x8_1003n);
    expect(at).toBeDefined();
    global.store(at as number, global.load(at as number) & ~(1n << 11n));
    global.setContext(0, contextOf(7, table));
    global.start().setStream(STREAM, STAGE_1);
    expect(global.access(STREAM, 0n, READ)).toBe(0x8_1000n);
    global.store(at as number, 0n);
    global.command(tlbiAsid(8));
    expect(global.access(STREAM, 0n, READ)).toBe(0x8_1000n);
    global.command(tlbiVa(8, 0));
    expect(global.access(STREAM, 0n, READ)).toBe(BigInt(targetFault('smmuv3', EVENT.F_TRANSLATION)));
  });
});

describe('event queue, 7.2 and 7.4', () => {
  test('interrupts when the queue is no longer empty; a full one overflows once until that is acknowledged', () => {
    const guest = new Guest().start();
    guest.write(REG.IRQ_CTRL, 4);
    for (let i = 0; i < 300; i++) guest.access(STREAM, BigInt(i) << 12n, READ);
    expect(guest.interrupts).toEqual(['event']);
    const prod = guest.read(PAGE_1 + REG.EVENTQ_PROD);
    expect(prod >>> 31).toBe(1);
    expect(guest.events()).toHaveLength(256);
    guest.access(STREAM, 0n, WRITE);
    expect([guest.interrupts.length, guest.numbers()]).toEqual([2, [EVENT.C_BAD_STE]]);
  });

  test('disabled, events are lost and nothing overflows', () => {
    const guest = new Guest().start(0b1001);
    guest.access(STREAM, 0n, READ);
    expect(guest.read(PAGE_1 + REG.EVENTQ_PROD)).toBe(0);
  });

  test('EVENTQ_ABT_ERR: not in memory; nothing is delivered until it is acknowledged', () => {
    const guest = new Guest();
    guest.write64(REG.EVENTQ_BASE, 0x4000_0008n);
    guest.start();
    guest.write(REG.CR0, 0);
    guest.write64(REG.EVENTQ_BASE, 0x4000_0008n);
    guest.write(REG.CR0, 0b1101);
    guest.access(STREAM, 0n, READ);
    expect(guest.read(REG.GERROR)).toBe(4);
    guest.write(REG.CR0, 0b1001);
    guest.write64(REG.EVENTQ_BASE, BigInt(EVENTS | QUEUE_LG2));
    guest.write(REG.CR0, 0b1101);
    guest.access(STREAM, 0n, READ);
    expect(guest.numbers()).toEqual([]);
    guest.write(REG.GERRORN, 4);
    guest.access(STREAM, 0n, READ);
    expect(guest.numbers()).toEqual([EVENT.C_BAD_STE]);
  });

  test('messages: their address and data; one that nothing takes is MSI_EVENTQ_ABT_ERR, told of by a wired interrupt', () => {
    const guest = new Guest();
    guest.write64(REG.EVENTQ_IRQ_CFG0, BigInt(DONE));
    guest.write(REG.EVENTQ_IRQ_CFG1, 0x55);
    guest.start();
    guest.write(REG.IRQ_CTRL, 5);
    guest.access(STREAM, 0n, READ);
    expect(guest.load(DONE)).toBe(0x55n);
    guest.events();
    guest.write(REG.IRQ_CTRL, 1);
    guest.write64(REG.EVENTQ_IRQ_CFG0, 1n << 41n);
    guest.write(REG.IRQ_CTRL, 5);
    guest.access(STREAM, 0n, READ);
    expect(guest.read(REG.GERROR)).toBe(1 << GERROR.MSI_EVENTQ_ABT_ERR.shift);
    expect(guest.interrupts).toEqual(['event', 'event', 'gerror']);
  });
});
