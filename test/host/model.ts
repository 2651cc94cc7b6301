import fc from 'fast-check';
import { expect } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import type { HostDevice, HostSpace } from '../../src/host/host.ts';
import { READ, READ_WRITE, WRITE } from '../../src/memory/access.ts';
import type { HostFixture } from './fixture.ts';

/** Random programs over a host, and the naive model that they are compared with. */

/** Two spaces over 8 IOVA pages; `from` counts pages of the case's memory. */
type Kind =
  | {
      readonly kind: 'map';
      readonly space: number;
      readonly page: number;
      readonly pages: number;
      readonly from: number;
      readonly permission: number;
    }
  | { readonly kind: 'unmap'; readonly space: number; readonly page: number; readonly pages: number }
  | { readonly kind: 'copy'; readonly space: number; readonly page: number; readonly pages: number; readonly permission: number }
  | { readonly kind: 'attach'; readonly space: number }
  | { readonly kind: 'detach'; readonly space: number };

/** `fails`: the kernel call that it makes is refused so, where the fixture can do that. */
type Operation = Kind & { readonly fails: number | null };

const space = fc.integer({ min: 0, max: 1 });
const page = fc.integer({ min: 0, max: 7 });
const pages = fc.integer({ min: 1, max: 4 });
const permission = fc.constantFrom(READ, READ_WRITE);
const fails = fc.option(fc.constantFrom(errno.ENOMEM, errno.EBUSY, errno.EINVAL, errno.ENOENT), { freq: 8 });
export const operation: fc.Arbitrary<Operation> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('map' as const), space, page, pages, from: page, permission, fails }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('unmap' as const), space, page, pages, fails }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('copy' as const), space, page, pages, permission, fails }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('attach' as const), space, fails }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('detach' as const), space, fails }) },
);

interface ModelMapping {
  readonly page: number;
  readonly pages: number;
  readonly from: number;
  readonly permission: number;
  /** Of the map call that named the memory: copies cannot go beyond it, though they may differ from each other. */
  readonly writable: boolean;
}

/** The naive model: a list of mappings a space. */
class Model {
  readonly spaces: ModelMapping[][] = [[], []];
  readonly #allOrNothing: boolean;
  attached = -1;

  constructor(allOrNothing: boolean) {
    this.#allOrNothing = allOrNothing;
  }

  overlapping(space: number, page: number, pages: number): ModelMapping[] {
    return this.spaces[space]
      .filter((mapping) => mapping.page < page + pages && page < mapping.page + mapping.pages)
      .sort((a, b) => a.page - b.page);
  }

  run(operation: Kind): number {
    if (operation.kind === 'attach') {
      this.attached = operation.space;
      return 0;
    }
    if (operation.kind === 'detach') {
      if (this.attached !== operation.space) return -errno.EINVAL;
      this.attached = -1;
      return 0;
    }
    const { space, page, pages } = operation;
    const found = this.overlapping(space, page, pages);
    if (operation.kind === 'unmap') return this.#unmap(space, page, pages, found);
    const write = (operation.permission & WRITE) !== 0;
    const { permission } = operation;
    const whole = (from: number) => [{ page, pages, from, permission, writable: write }];
    const parts = operation.kind === 'map' ? whole(operation.from) : this.#parts(1 - space, page, pages, permission);
    if (parts === null) return -errno.ENOENT;
    if (found.length > 0) return -errno.EEXIST;
    if (write && parts.some(({ writable }) => !writable)) return -errno.EPERM;
    this.spaces[space].push(...parts);
    return 0;
  }

  /** Lowest first, up to one that sticks out. */
  #unmap(space: number, page: number, pages: number, found: ModelMapping[]): number {
    if (found.length === 0) return -errno.ENOENT;
    const sticksOut = (mapping: ModelMapping) => mapping.page < page || mapping.page + mapping.pages > page + pages;
    if (this.#allOrNothing && found.some(sticksOut)) return -errno.ENOENT;
    for (const mapping of found) {
      if (sticksOut(mapping)) return -errno.ENOENT;
      this.spaces[space].splice(this.spaces[space].indexOf(mapping), 1);
    }
    return 0;
  }

  /** What copying the range makes: a mapping for each that it crosses; null where it has a hole. */
  #parts(space: number, page: number, pages: number, permission: number): ModelMapping[] | null {
    const parts: ModelMapping[] = [];
    let at = page;
    for (const mapping of this.overlapping(space, page, pages)) {
      if (mapping.page > at) return null;
      const end = Math.min(mapping.page + mapping.pages, page + pages);
      parts.push({ page: at, pages: end - at, from: mapping.from + (at - mapping.page), permission, writable: mapping.writable });
      at = end;
    }
    return at === page + pages ? parts : null;
  }
}

interface Setting {
  readonly base: number;
  readonly hostPfn: number;
  readonly unmapsAllOrNothing: boolean;
}

function run(spaces: readonly HostSpace[], device: HostDevice, { base, hostPfn }: Setting, operation: Kind): number {
  const target = spaces[operation.space];
  switch (operation.kind) {
    case 'map':
      return target.map(base + operation.page, hostPfn + operation.from, operation.pages, operation.permission);
    case 'unmap':
      return target.unmap(base + operation.page, operation.pages);
    case 'copy':
      return target.copy(spaces[1 - operation.space], base + operation.page, operation.pages, operation.permission);
    case 'attach':
      return target.attach(device);
    case 'detach':
      return target.detach(device);
  }
}

/** Runs a program on the host and on the model: the same answers, and in the end the device reaches the same. */
export async function compareWithModel(
  fixture: HostFixture,
  device: HostDevice,
  setting: Setting,
  program: readonly Operation[],
): Promise<void> {
  const { host, dma, failNext } = fixture;
  const spaces = [host.createSpace(), host.createSpace()];
  const model = new Model(setting.unmapsAllOrNothing);
  for (const operation of program) {
    if (operation.kind === 'copy' && !host.capabilities.copy) continue;
    const failing = operation.fails === null ? undefined : failNext?.(operation.fails);
    const answer = run(spaces, device, setting, operation);
    const failed = failing?.() ?? false;
    expect(answer, JSON.stringify(operation)).toBe(failed ? -(operation.fails ?? 0) : model.run(operation));
    if (answer < 0) expect(spaces[operation.space].error?.errno).toBe(-answer);
  }
  for (let page = 0; page < 12; page++) {
    const mapping = model.attached < 0 ? undefined : model.overlapping(model.attached, page, 1)[0];
    const iova = BigInt(setting.base + page) << 12n;
    const bytes = await dma.read(device, iova);
    expect(bytes?.[0] ?? null, `page ${page}`).toBe(mapping === undefined ? null : mapping.from + (page - mapping.page) + 1);
    // Writes what is there.
    if (bytes !== null) expect(await dma.write(device, iova, bytes), `write to page ${page}`).toBe(mapping?.permission === READ_WRITE);
  }
  if (model.attached >= 0) spaces[model.attached].detach(device);
  for (const space of spaces) space.close();
}
