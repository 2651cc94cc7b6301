import { describe, expect, test } from 'vitest';
import { PRIVILEGED, READ } from '../../../src/memory/access.ts';
import { targetFault } from '../../../src/target/fault-codes.ts';
import { EVENT } from '../../../src/target/smmuv3/index.ts';
import { OPCODE } from '../../../src/target/smmuv3/spec/commands.ts';
import { REG } from '../../../src/target/smmuv3/spec/registers.ts';
import { CONFIG } from '../../../src/target/smmuv3/spec/ste.ts';
import { CONTEXTS, type Command, cfgiCd, contextOf, Guest, stage2Of, tlbiAsid, tlbiIpa, tlbiRange, tlbiVa, tlbiVmid } from './guest.ts';

/* What each CMD_TLBI_* takes of whom (4.4), and who hears of CMD_CFGI_CD* (4.3). */

const STREAM = 8;
const ASID = 7;
const STAGE_1 = { CONFIG: CONFIG.stage1, S1CONTEXT_PTR: CONTEXTS / 64 };
const WORLDS = { 'NS-EL1': [0, 0], 'NS-EL2': [2, 0], 'NS-EL2-E2H': [2, 1] } as const;
type World = keyof typeof WORLDS;

/** Pages 0 to 2 are cached for either privilege, and the table says another output by now. */
function cached(world: World) {
  const [strw, e2h] = WORLDS[world];
  const guest = new Guest();
  const table = guest.table();
  table.table.map(0, 0x80, 3, READ);
  guest.setContext(0, contextOf(ASID, table));
  guest.start(0b1100).setStream(STREAM, { ...STAGE_1, STRW: strw });
  guest.write(REG.CR2, 2 | e2h);
  guest.write(REG.CR0, 0b1101);
  /** Of each page, who sees its new output. */
  const renewed = () =>
    [0, 1, 2].map((page) => {
      const isNew = (access: number) => guest.access(STREAM, BigInt(page) << 12n, access) === BigInt(0xa0 + page) << 12n;
      return [isNew(READ), isNew(READ | PRIVILEGED)].map(Number).join('');
    });
  renewed();
  table.table.unmap(0, 3);
  table.table.map(0, 0xa0, 3, READ);
  expect(renewed()).toEqual(['00', '00', '00']);
  return { guest, renewed };
}

const NONE = ['00', '00', '00'];
const FIRST = ['11', '00', '00'];
const ALL = ['11', '11', '11'];
const op = (code: number, asid = 0): Command => [BigInt(code) | (BigInt(asid) << 48n), 0n];

describe('cached translations of both privileges', () => {
  test.each<[World, string, Command, string[]]>([
    ['NS-EL1', 'TLBI_NH_VA', tlbiVa(ASID, 0), FIRST],
    ['NS-EL1', 'TLBI_NH_VA of two pages', tlbiRange(ASID, 0, { num: 1, scale: 0 }), ['11', '11', '00']],
    ['NS-EL1', 'TLBI_NH_ASID', tlbiAsid(ASID), ALL],
    ['NS-EL1', 'TLBI_NH_ALL', op(OPCODE.TLBI_NH_ALL), ALL],
    ['NS-EL1', 'TLBI_EL2_ALL', op(OPCODE.TLBI_EL2_ALL), NONE],
    ['NS-EL1', 'TLBI_EL2_VAA', op(OPCODE.TLBI_EL2_VAA), NONE],
    // 4.4.2.7: whether tagged with ASIDs or not.
    ['NS-EL2', 'TLBI_EL2_ALL', op(OPCODE.TLBI_EL2_ALL), ALL],
    // 4.4.2.8: the ASID is ignored.
    ['NS-EL2', 'TLBI_EL2_VA', op(OPCODE.TLBI_EL2_VA, 9), FIRST],
    ['NS-EL2', 'TLBI_EL2_ASID', op(OPCODE.TLBI_EL2_ASID, ASID), NONE],
    ['NS-EL2', 'TLBI_NH_ALL', op(OPCODE.TLBI_NH_ALL), NONE],
    ['NS-EL2', 'TLBI_NH_VA', tlbiVa(ASID, 0), NONE],
    ['NS-EL2-E2H', 'TLBI_EL2_ALL', op(OPCODE.TLBI_EL2_ALL), ALL],
    ['NS-EL2-E2H', 'TLBI_EL2_VA', op(OPCODE.TLBI_EL2_VA, ASID), FIRST],
    ['NS-EL2-E2H', 'TLBI_EL2_VA of another ASID', op(OPCODE.TLBI_EL2_VA, 9), NONE],
    ['NS-EL2-E2H', 'TLBI_EL2_ASID', op(OPCODE.TLBI_EL2_ASID, ASID), ALL],
    ['NS-EL2-E2H', 'TLBI_EL2_ASID of another ASID', op(OPCODE.TLBI_EL2_ASID, 9), NONE],
    ['NS-EL2-E2H', 'TLBI_S12_VMALL', tlbiVmid(0), NONE],
  ])('%s: %s', (world, _, command, expected) => {
    const { guest, renewed } = cached(world);
    guest.command(command);
    expect([guest.error, renewed()]).toEqual([0, expected]);
  });

  // 4.4.2.9; more than the page may go.
  test.each<World>(['NS-EL2', 'NS-EL2-E2H'])('%s: TLBI_EL2_VAA takes the page of every ASID', (world) => {
    const { guest, renewed } = cached(world);
    guest.command(op(OPCODE.TLBI_EL2_VAA));
    expect([guest.error, renewed()[0]]).toEqual([0, '11']);
  });

  test.each([0, 1, 2, 3, 4])('CR0.VMW %i: so many low bits of a VMID do not count (6.3.9)', (wildcard) => {
    const { guest, renewed } = cached('NS-EL1');
    guest.write(REG.CR0, 0b1101 | (wildcard << 6));
    guest.command(tlbiVmid(1 << wildcard));
    expect(renewed()).toEqual(NONE);
    guest.command(tlbiVmid((1 << wildcard) - 1));
    expect(renewed()).toEqual(ALL);
  });

  test.each([5, 6, 7])('CR0.VMW %i is reserved, and behaves as 0 (6.3.9)', (wildcard) => {
    const { guest, renewed } = cached('NS-EL1');
    guest.write(REG.CR0, 0b1101 | (wildcard << 6));
    guest.command(tlbiVmid(1));
    expect(renewed()).toEqual(NONE);
    guest.command(tlbiVmid(0));
    expect(renewed()).toEqual(ALL);
  });
});

/** Clears nG of the leaf of page 0. */
function makeGlobal(guest: Guest, root: number): void {
  let at = root * 4096;
  for (let entry = guest.load(at); (entry & 3n) === 3n; entry = guest.load(at)) at = Number(entry & 0xffff_ffff_f000n);
  guest.store(at, guest.load(at) & ~(1n << 11n));
}

test('both stages: a global page goes with its address and another ASID, whatever piece of it was named', () => {
  const guest = new Guest();
  const first = guest.table();
  const second = guest.table({ stage: 2, inputBits: 32 });
  second.table.map(0, 0, 0x400, 7);
  for (let page = 0; page < 512; page++) second.table.map(0x400 + page, 0x100 + (page ^ 1), 1, READ);
  first.table.map(0, 0x400, 512, READ);
  makeGlobal(guest, first.root);
  guest.setContext(0, contextOf(ASID, first));
  guest.start().setStream(STREAM, { ...STAGE_1, ...stage2Of(5, second), CONFIG: CONFIG.nested });
  expect([0n, 0x9000n].map((iova) => guest.access(STREAM, iova, READ))).toEqual([0x10_1000n, 0x10_8000n]);
  first.table.unmap(0, 512);
  guest.command(tlbiAsid(9, 5));
  expect(guest.access(STREAM, 0x9000n, READ)).toBe(0x10_8000n);
  guest.command(tlbiVa(9, 0, 5));
  expect(guest.access(STREAM, 0x9000n, READ)).toBe(BigInt(targetFault('smmuv3', EVENT.F_TRANSLATION)));
});

describe('private and shared ASIDs, CD.ASET (3.17.1, 4.4)', () => {
  const STREAMS = [STREAM, 16];
  /** One ASID, of a shared context and of a private one: page 0 is another in each; with `isGlobal` of a global block. */
  function both(isGlobal: boolean) {
    const guest = new Guest();
    const [pages, place, moved] = isGlobal ? [512, 0x200, 0x800] : [2, 0x80, 0xa0];
    const tables = STREAMS.map(() => guest.table());
    tables.forEach(({ table, root }, i) => {
      table.map(0, place * (i + 1), pages, READ);
      if (isGlobal) makeGlobal(guest, root);
      guest.setContext(0, { ...contextOf(ASID, tables[i]), ASET: i }, CONTEXTS + 64 * i);
    });
    guest.start();
    STREAMS.forEach((stream, i) => void guest.setStream(stream, { CONFIG: CONFIG.stage1, S1CONTEXT_PTR: CONTEXTS / 64 + i }));
    const landings = (page = 0n) => STREAMS.map((stream) => Number(guest.access(stream, page << 12n, READ) >> 12n));
    /** The tables say other pages by now. */
    const move = () => {
      for (const { table } of tables) {
        table.unmap(0, pages);
        table.map(0, moved, pages, READ);
      }
    };
    return { guest, landings, move };
  }

  test('a global page of one is not the other’s', () => {
    expect(both(true).landings()).toEqual([0x200, 0x400]);
  });

  test.each([
    ['TLBI_NH_VA', tlbiVa(ASID, 0), [0xa0, 0xa0], [0x81, 0x101]],
    ['TLBI_NH_VA of a range', tlbiRange(ASID, 0, { num: 1, scale: 0 }), [0xa0, 0xa0], [0xa1, 0xa1]],
    ['TLBI_NH_ASID', tlbiAsid(ASID), [0xa0, 0xa0], [0xa1, 0xa1]],
    ['TLBI_NH_VA of another ASID', tlbiVa(9, 0), [0x80, 0x100], [0x81, 0x101]],
  ])('%s is of both, whatever their ASET', (_, command, first, second) => {
    const { guest, landings, move } = both(false);
    expect([landings(), landings(1n)]).toEqual([
      [0x80, 0x100],
      [0x81, 0x101],
    ]);
    move();
    guest.command(command);
    expect([landings(), landings(1n)]).toEqual([first, second]);
  });

  test('TLBI_NH_VA where all contexts are private, as Linux has them', () => {
    const guest = new Guest();
    const table = guest.table();
    table.table.map(0, 0x80, 2, READ);
    guest.setContext(0, { ...contextOf(ASID, table), ASET: 1 });
    guest.start().setStream(STREAM, STAGE_1);
    const landings = () => [0n, 1n].map((page) => guest.access(STREAM, page << 12n, READ) >> 12n);
    expect(landings()).toEqual([0x80n, 0x81n]);
    table.table.unmap(0, 2);
    table.table.map(0, 0xa0, 2, READ);
    guest.command(tlbiVa(ASID, 0));
    expect(landings()).toEqual([0xa0n, 0x81n]);
  });

  test('a global page goes with an address of any ASID, of either set', () => {
    const { guest, landings, move } = both(true);
    landings();
    move();
    expect(landings()).toEqual([0x200, 0x400]);
    guest.command(tlbiVa(9, 0));
    expect(landings()).toEqual([0x800, 0x800]);
  });

  test('EL2 has no ASIDs, and so no sets of them', () => {
    const guest = new Guest();
    const table = guest.table();
    table.table.map(0, 0x80, 1, READ);
    guest.setContext(0, { ...contextOf(ASID, table), ASET: 1 });
    guest.start().setStream(STREAM, { ...STAGE_1, STRW: 2 });
    expect(guest.access(STREAM, 0n, READ)).toBe(0x8_0000n);
    table.table.unmap(0, 1);
    guest.command(op(OPCODE.TLBI_EL2_VA));
    expect(guest.access(STREAM, 0n, READ)).toBe(BigInt(targetFault('smmuv3', EVENT.F_TRANSLATION)));
  });
});

test('PRIVCFG and INSTCFG: what was cached for a write is not asked for a read that is an instruction’s', () => {
  const guest = new Guest();
  const table = guest.table();
  table.table.map(5, 0x80, 1, 3);
  guest.setContext(0, contextOf(ASID, table));
  guest.start().setStream(STREAM, { ...STAGE_1, INSTCFG: 3 });
  const answers = [2, 2, 1, 3, 1].map((access) => guest.access(STREAM, 0x5000n, access));
  const refused = BigInt(targetFault('smmuv3', EVENT.F_PERMISSION));
  expect(answers).toEqual([0x8_0000n, 0x8_0000n, refused, 0x8_0000n, refused]);
});

test('TBI1: a page cached under one top byte goes with the address of another', () => {
  const guest = new Guest();
  const [lower, upper] = [guest.table(), guest.table({ upper: true })];
  upper.table.map(2 ** 52 - 2, 0x90, 1, READ);
  guest.setContext(0, { ...contextOf(ASID, lower, upper), TBI1: 1 });
  guest.start().setStream(STREAM, STAGE_1);
  const tagged = 0x12ff_ffff_ffff_e010n;
  expect(guest.access(STREAM, tagged, READ)).toBe(0x9_0010n);
  upper.table.unmap(2 ** 52 - 2, 1);
  guest.command(tlbiVa(ASID, 2 ** 52 - 2));
  expect(guest.access(STREAM, tagged, READ)).toBe(BigInt(targetFault('smmuv3', EVENT.F_TRANSLATION)));
});

describe('who hears of it', () => {
  function watched(ste: Parameters<Guest['setStream']>[1] = {}) {
    const guest = new Guest();
    const table = guest.table();
    table.table.map(5, 0x80, 1, READ);
    guest.setContext(0, contextOf(ASID, table));
    guest.start().setStream(STREAM, { ...STAGE_1, ...ste });
    guest.smmu.addEndpoint(STREAM);
    const heard: unknown[] = [];
    guest.smmu.observe({
      attach: (_, space) => heard.push(space?.name ?? null) && 0,
      changed: (_, first, last) => void heard.push([first, last]),
      flush: () => 0,
    });
    return { guest, table, heard };
  }

  test.each<[string, Command]>([
    ['CFGI_CD', cfgiCd(STREAM)],
    ['CFGI_CD_ALL', [BigInt(OPCODE.CFGI_CD_ALL) | (BigInt(STREAM) << 32n), 0n]],
  ])('%s: the descriptor is read again, and the observer hears of the space that it makes', (_, command) => {
    const { guest, table, heard } = watched();
    expect(guest.access(STREAM, 0x5000n, READ)).toBe(0x8_0000n);
    guest.setContext(0, contextOf(9, table));
    guest.command(cfgiCd(STREAM + 1));
    expect(heard).toEqual([`VMID 0, ASID ${ASID}`]);
    guest.command(command);
    expect(heard).toEqual([`VMID 0, ASID ${ASID}`, 'VMID 0, ASID 9']);
    guest.setContext(0, { V: 0 });
    guest.command(command);
    expect(guest.access(STREAM, 0x5000n, READ)).toBe(BigInt(targetFault('smmuv3', EVENT.C_BAD_CD)));
  });

  test.each([3, 4])('CFGI_STE_RANGE of 2^%i streams, the last of which is another one: few and many of them', (lg2) => {
    const last = 2 ** lg2 - 1;
    const { guest, heard } = watched();
    guest.smmu.addEndpoint(last);
    heard.length = 0;
    guest.setStream(last, STAGE_1);
    guest.command([BigInt(OPCODE.CFGI_STE_RANGE), BigInt(lg2 - 1)]);
    expect(heard).toEqual([`VMID 0, ASID ${ASID}`]);
  });

  test('TLBI_S2_IPA: behind stage 1, any page may mean something else', () => {
    const guest = new Guest();
    const first = guest.table();
    const second = guest.table({ stage: 2, inputBits: 32 });
    second.table.map(0, 0, 512, 7);
    guest.setContext(0, contextOf(ASID, first));
    guest.start().setStream(STREAM, { ...STAGE_1, ...stage2Of(5, second), CONFIG: CONFIG.nested });
    guest.smmu.addEndpoint(STREAM);
    const heard: unknown[] = [];
    guest.smmu.observe({
      attach: () => 0,
      changed: (space, from, to) => void heard.push([space.name, from, to]),
      flush: () => 0,
    });
    guest.command(tlbiIpa(4, 3));
    expect(heard).toEqual([]);
    guest.command(tlbiIpa(5, 3));
    expect(heard).toEqual([['VMID 5, ASID 7', 0, 2 ** 52 - 1]]);
  });

  test.each<[string, Parameters<Guest['setStream']>[1], Parameters<Guest['setContext']>[1], number, number]>([
    ['INSTCFG instruction: what is not executable is not readable', { INSTCFG: 3 }, {}, 3, 2],
    ['INSTCFG data: what is readable is executable', { INSTCFG: 2 }, {}, 1, 5],
    ['WXN: what is writable is not executable', {}, { WXN: 1 }, 7, 3],
  ])('%s, as it is enumerated', (_, ste, cd, mapped, told) => {
    const { guest, table } = watched(ste);
    table.table.map(6, 0x81, 1, mapped);
    guest.setContext(0, { ...contextOf(ASID, table), ...cd });
    guest.command(cfgiCd(STREAM));
    const permissions: number[] = [];
    guest.smmu.spaceOf(STREAM)!.enumerate(6, 6, (_iova, _gpa, _pages, permission) => permissions.push(permission) > 0);
    expect(permissions).toEqual([told]);
  });
});
