import type { Path, PathKind } from '../../src/accel/path.ts';
import { paths } from '../../src/accel/registry.ts';
import { IommufdHost } from '../../src/host/iommufd/index.ts';
import { simKernel } from '../../src/host/sim/index.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { type AddressSpace, type FirstStage, NO_PASID, type PfnRange, type RunVisitor } from '../../src/target/target.ts';
import { followingPaths, type Hardware, hardwares } from '../hardware.ts';
import type { Row, Variant, Work } from '../row.ts';

const RAM_PAGES = 1024;
const FIRST = 0x1000;
/** Maps and unmaps in a batch. */
const PAIRS = 16;

const stages: Readonly<Record<Hardware, FirstStage>> = {
  vtd: { kind: 'vtd', root: 0n, addressWidth: 48, supervisor: false, extendedAccess: false, writeProtect: false },
  smmuv3: { kind: 'smmuv3', ste: [1n | (5n << 1n), 0n] },
  'smmuv3-cmdqv': { kind: 'smmuv3', ste: [1n | (5n << 1n), 0n] },
};

/** A space that maps [FIRST, FIRST + pages), or nothing. */
class Space implements AddressSpace {
  readonly name = 'bench';
  readonly owner = 'target';
  readonly announced = true;
  readonly granuleLg2 = 12;
  readonly apertures: readonly PfnRange[] = [{ first: FIRST, last: FIRST + RAM_PAGES - 1 }];
  pages = 0;

  enumerate(first: number, last: number, visit: RunVisitor): number {
    const from = Math.max(first, FIRST);
    const end = Math.min(last + 1, FIRST + this.pages);
    if (from < end) visit(from, from - FIRST, end - from, 3);
    return last + 1;
  }
}

function kindOf(name: string): PathKind {
  const kind = paths.find((candidate) => candidate.name === name);
  if (kind === undefined) throw new Error(`no path ${name}`);
  return kind;
}

/** Whose spaces they are: a device's each, or a PASID's each of one device. */
export type Owners = 'devices' | 'PASIDs';

/** Spaces of one guest on one path; the last of them is worked on. */
class Machine {
  readonly space: Space;
  readonly path: Path;

  constructor(name: string, hardware: Hardware, spaces: number, owners: Owners = 'devices') {
    const devices = Array.from({ length: owners === 'devices' ? spaces : 1 }, (_, i) => ({ name: `vfio${i}` }));
    const kernel = simKernel({ iommus: [{ nesting: hardwares[hardware](), pasidLog2: owners === 'devices' ? 0 : 16 }], devices });
    const host = new IommufdHost(kernel);
    const ram = kernel.allocate(RAM_PAGES * 4096);
    const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
    const stage = stages[hardware];
    const target = { name: 'bench', stageFormat: stage.kind as 'vtd' | 'smmuv3' };
    const opened = kernel.devices.map(({ path: node }) => host.openDevice(node));
    const requesters = Array.from({ length: spaces }, (_, i) =>
      owners === 'devices'
        ? { device: opened[i], endpoint: i, pasid: NO_PASID }
        : { device: host.pasids.open(opened[0], i + 1), endpoint: 0, pasid: i + 1 },
    );
    const all = requesters.map(({ device, endpoint, pasid }) => {
      const space = new Space();
      const path = kindOf(name).create({ space, memory, host, device, target, stage, pasid });
      const attached = path.attach(device, { endpoint, pasid, stage });
      if (attached < 0) throw new Error(`paths: attach ${attached}`);
      return { space, path };
    });
    ({ space: this.space, path: this.path } = all[spaces - 1]);
  }

  flush(): void {
    const result = this.path.flush();
    if (result < 0) throw new Error(`paths: flush ${result}`);
  }
}

/** A map of so many pages at once, and their unmap. */
class Pairs implements Work {
  readonly operations = PAIRS;
  readonly #machine: Machine;
  readonly #pages: number;

  constructor(machine: Machine, pages: number) {
    this.#machine = machine;
    this.#pages = pages;
  }

  batch(): number {
    const { space, path } = this.#machine;
    for (let i = 0; i < PAIRS; i++) {
      for (const pages of [this.#pages, 0]) {
        space.pages = pages;
        path.changed(FIRST, FIRST + this.#pages - 1);
        this.#machine.flush();
      }
    }
    return PAIRS;
  }
}

/** TLBI_NH_VA of ASID 7 (IHI 0070, 4.4.2). */
const TLBI_NH_VA = 0x12;
const ASID = 7 << 16;
/** Invalidations in a batch, however many of them go together. */
const INVALIDATIONS = 1000;

/** Invalidations of a guest's, of a page each, a completion behind every `together` of them. */
class Invalidations implements Work {
  readonly operations = INVALIDATIONS;
  readonly #machine: Machine;
  readonly #together: number;
  readonly #commands: boolean;
  readonly #words = Int32Array.of(TLBI_NH_VA, ASID, 0, 0);

  constructor(machine: Machine, together: number, commands: boolean) {
    this.#machine = machine;
    this.#together = together;
    this.#commands = commands;
  }

  batch(): number {
    const { path } = this.#machine;
    for (let i = 0; i < INVALIDATIONS; i++) {
      const page = FIRST + 2 * i;
      if (this.#commands) {
        this.#words[2] = page << 12;
        path.guestHardware?.invalidated(this.#words);
      } else path.changed(page, page);
      if ((i + 1) % this.#together === 0) this.#machine.flush();
    }
    return INVALIDATIONS;
  }
}

/** A map and an unmap of so many pages. */
export const pairs = (path: string, hardware: Hardware, pages: number, spaces: number, owners: Owners = 'devices'): Work =>
  new Pairs(new Machine(path, hardware, spaces, owners), pages);
/** Invalidations of a nested guest, so many with one completion. */
export const invalidations = (path: string, hardware: Hardware, together: number, spaces: number, owners: Owners = 'devices'): Work =>
  new Invalidations(new Machine(path, hardware, spaces, owners), together, hardware !== 'vtd');

const variant = (name: string, setup: () => Work): Variant => ({ name, goal: null, baseline: null, setup });
const shown = (spaces: number, owners: Owners): string => {
  const one = owners === 'devices' ? '' : ', a PASID';
  return spaces === 1 ? one : `, ${spaces.toLocaleString('en')} ${owners === 'devices' ? 'spaces' : owners}`;
};

const mapped = (path: string, hardware: Hardware, pages: number, spaces = 1, owners: Owners = 'devices'): Variant =>
  variant(`${path}, ${hardware}, ${pages === 1 ? '1 page' : `${pages} pages`}${shown(spaces, owners)}`, () =>
    pairs(path, hardware, pages, spaces, owners),
  );
const invalidated = (path: string, hardware: Hardware, together: number, spaces = 1, owners: Owners = 'devices'): Variant =>
  variant(`${path}, ${hardware}, ${together.toLocaleString('en')} a call${shown(spaces, owners)}`, () =>
    invalidations(path, hardware, together, spaces, owners),
  );

/** A map and an unmap, on each path that follows its guest. The kernel is the simulated one: what is measured is everything but the calls. */
export const pathMap: Row = {
  name: 'path-map',
  baseline: null,
  variants: [
    ...followingPaths.flatMap(([path, hardware]) => [1, 512].map((pages) => mapped(path, hardware, pages))),
    ...followingPaths.map(([path, hardware]) => mapped(path, hardware, 1, 2048)),
    ...(['shadow', 'user-owned'] as const).flatMap((path) => [
      ...[1, 512].map((pages) => mapped(path, 'vtd', pages, 1, 'PASIDs')),
      mapped(path, 'vtd', 1, 2048, 'PASIDs'),
    ]),
  ],
};

/** An invalidation of one page, where the hardware walks the guest's tables, and so a map is nothing. */
export const nestedInvalidation: Row = {
  name: 'nested-invalidation',
  baseline: null,
  variants: [
    ...(['vtd', 'smmuv3'] as const).flatMap((hardware) => [1, INVALIDATIONS].map((together) => invalidated('nested', hardware, together))),
    ...[1, INVALIDATIONS].map((together) => invalidated('nested-queue', 'smmuv3-cmdqv', together)),
    invalidated('nested', 'vtd', 1, 2048),
    invalidated('nested', 'smmuv3', 1, 2048),
    invalidated('nested-queue', 'smmuv3-cmdqv', 1, 2048),
    invalidated('nested', 'vtd', 1, 1, 'PASIDs'),
    invalidated('nested', 'vtd', 1, 2048, 'PASIDs'),
  ],
};
