import { IOMMU_TEST_CMD } from '../../host/mock/types.ts';
import type { Builder, Kind } from './builder.ts';
import { buffer, iova, length, memory } from './ioas-steps.ts';

/** What the mock's devices and accesses do (struct iommu_test_cmd: size, op, id, reserved, then the operation's own, 72 bytes in all). */

const BYTES = 72;
const PASIDS = [0, 1, 2, 2, 100, 1 << 20];

type Fields = readonly (number | bigint)[];

function command(
  builder: Builder,
  fd: number,
  name: string,
  op: number,
  id: number,
  fields: Fields,
  poke?: { address: bigint; bytes: Uint8Array },
) {
  // The union begins at byte 16, and `last` is the word at 64.
  const whole: (number | bigint)[] = [op, id, 0, ...fields];
  let at = 4;
  for (const field of whole) at = typeof field === 'bigint' ? Math.ceil(at / 8) * 8 + 8 : at + 4;
  for (; at < BYTES; at += 4) whole.push(0);
  return builder.ioctl(name, fd, IOMMU_TEST_CMD, whole, poke === undefined ? [] : [poke]);
}

export interface MockState {
  /** Stand-ins by ID, with the PASIDs that they are attached with. */
  readonly devices: Map<number, Set<number>>;
  /** Descriptors of accesses. */
  readonly accesses: number[];
}

const states = new WeakMap<Builder, MockState>();

export function mockState(builder: Builder): MockState {
  const state = states.get(builder) ?? { devices: new Map(), accesses: [] };
  states.set(builder, state);
  return state;
}

export function makeDevice(builder: Builder, fd: number): void {
  const { random } = builder;
  const flags = random.chance(60) ? 4 : random.chance(90) ? random.pick([0, 1, 5]) : random.below(8);
  const { result, words } = command(builder, fd, 'MOCK_DOMAIN_FLAGS', 12, builder.id('ioas'), [0, 0, 0, flags]);
  if (result !== 0) return;
  mockState(builder).devices.set(words[4], new Set());
  builder.know('mock', words[4]);
  builder.know('device', words[6]);
}

function replace(builder: Builder, fd: number): void {
  command(builder, fd, 'MOCK_DOMAIN_REPLACE', 10, builder.id('mock'), [builder.id('ioas', 'paging', 'nesting', 'nested', 'nested')]);
}

function checkMap(builder: Builder, fd: number): void {
  const known = builder.mapped.length > 0 && builder.random.chance(85) ? builder.random.pick(builder.mapped) : null;
  const fields = [known?.iova ?? iova(builder), 2048n * BigInt(1 + builder.random.below(3)), known?.memory ?? memory(builder)];
  command(builder, fd, 'MD_CHECK_MAP', 3, builder.id('paging', 'nesting'), fields);
}

function checkIotlb(builder: Builder, fd: number): void {
  for (let index = 0; index < 4; index++)
    command(builder, fd, 'MD_CHECK_IOTLB', 14, builder.id('nested'), [index, builder.random.below(4)]);
}

function checkCache(builder: Builder, fd: number): void {
  command(builder, fd, 'DEV_CHECK_CACHE', 16, builder.id('device'), [builder.random.below(5), builder.random.chance(70) ? 0xba_ddad : 0]);
}

function fault(builder: Builder, fd: number): void {
  const { random } = builder;
  const fields = [builder.id('device'), random.pick(PASIDS), random.below(4), random.below(4), BigInt(random.below(1 << 20)) << 12n];
  command(builder, fd, 'TRIGGER_IOPF', 15, 0, fields);
}

function event(builder: Builder, fd: number): void {
  command(builder, fd, 'TRIGGER_VEVENT', 17, 0, [builder.id('device')]);
}

function attachPasid(builder: Builder, fd: number): void {
  const { random } = builder;
  const id = builder.id('mock');
  const pasid = random.pick(PASIDS);
  const replaces = random.chance(40);
  const { result } = command(builder, fd, replaces ? 'PASID_REPLACE' : 'PASID_ATTACH', replaces ? 19 : 18, id, [
    pasid,
    builder.id('paging', 'nesting', 'nested', 'ioas'),
  ]);
  if (result === 0 && pasid !== 0) mockState(builder).devices.get(id)?.add(pasid);
}

export function detachPasid(builder: Builder, fd: number, id: number, pasid: number): void {
  const { result } = command(builder, fd, 'PASID_DETACH', 20, id, [pasid]);
  if (result === 0) mockState(builder).devices.get(id)?.delete(pasid);
}

function detach(builder: Builder, fd: number): void {
  const pasid = builder.random.pick(PASIDS);
  // Without a table, a stand-in's end would find nothing to detach, and the kernel warns.
  if (pasid !== 0) detachPasid(builder, fd, builder.id('mock'), pasid);
}

function checkPasid(builder: Builder, fd: number): void {
  const { random } = builder;
  const table = random.chance(50) ? 0 : builder.id('paging', 'nesting', 'nested');
  command(builder, fd, 'PASID_CHECK_HWPT', 21, builder.id('mock'), [random.pick(PASIDS), table]);
}

function reserve(builder: Builder, fd: number): void {
  command(builder, fd, 'ADD_RESERVED', 1, builder.id('ioas'), [iova(builder), length(builder)]);
}

function createAccess(builder: Builder, fd: number): void {
  const { random } = builder;
  const { result, words } = command(builder, fd, 'CREATE_ACCESS', 5, builder.id('ioas'), [0, random.chance(95) ? random.below(2) : 2]);
  if (result === 0) mockState(builder).accesses.push(words[4]);
}

function accessOf(builder: Builder): number {
  const { accesses } = mockState(builder);
  return accesses.length === 0 || builder.random.chance(3) ? builder.random.below(20) : builder.random.pick(accesses);
}

function pinPages(builder: Builder, fd: number): void {
  const { random } = builder;
  const known = builder.mapped.length > 0 && random.chance(85) ? random.pick(builder.mapped) : null;
  const bytes = known !== null && random.chance(70) ? known.length : length(builder);
  const address = random.chance(60) ? 0n : (known?.memory ?? memory(builder));
  const fields = [random.chance(95) ? random.below(2) : 2, 0, known?.iova ?? iova(builder), bytes, address];
  command(builder, fd, 'ACCESS_PAGES', 7, accessOf(builder), fields);
}

function copyAccess(builder: Builder, fd: number): void {
  const { random } = builder;
  const write = random.chance(50);
  const fields = [
    iova(builder) + BigInt(random.below(64)),
    BigInt(random.pick([0, 1, 8, 100, 300])),
    buffer(builder),
    (write ? 1 : 0) | random.pick([0, 4]),
  ];
  const bytes = Buffer.alloc(304, random.below(256));
  command(builder, fd, 'ACCESS_RW', 8, accessOf(builder), fields, { address: builder.control + 0x800n, bytes });
}

function releasePages(builder: Builder, fd: number): void {
  command(builder, fd, 'DESTROY_ACCESS_PAGES', 6, accessOf(builder), [builder.random.below(4)]);
}

function replaceIoas(builder: Builder, fd: number): void {
  command(builder, fd, 'ACCESS_REPLACE_IOAS', 11, accessOf(builder), [builder.id('ioas')]);
}

function dirty(builder: Builder, fd: number): void {
  const { random } = builder;
  const page = random.pick([2048n, 4096n]);
  const bits = Buffer.alloc(8, 0);
  bits.writeUInt32LE(random.below(256), 0);
  const fields = [0, iova(builder), page * BigInt(1 + random.below(12)), page, buffer(builder), 0n];
  command(builder, fd, 'DIRTY', 13, builder.id('paging'), fields, { address: builder.control + 0x800n, bytes: bits });
}

/** Accesses are no objects that calls name, but descriptors. */
const withAccess = (step: (builder: Builder, fd: number) => void) => (builder: Builder, fd: number) =>
  mockState(builder).accesses.length > 0 || builder.random.chance(5) ? step(builder, fd) : createAccess(builder, fd);

export const mockSteps: readonly Kind[] = [
  [4, makeDevice],
  [8, replace, 'mock'],
  [3, checkMap, 'paging', 'nesting'],
  [1, checkIotlb, 'nested'],
  [1, checkCache, 'device'],
  [3, fault, 'fault'],
  [3, event, 'viommu'],
  [4, attachPasid, 'mock'],
  [2, detach, 'mock'],
  [2, checkPasid, 'mock'],
  [1, reserve],
  [1, createAccess],
  [4, withAccess(pinPages)],
  [5, withAccess(copyAccess)],
  [1, withAccess(releasePages)],
  [1, withAccess(replaceIoas)],
  [3, dirty, 'paging'],
];
