import { fc } from '@fast-check/vitest';
import { expect } from 'vitest';
import type { Path, PathKind, Requester } from '../../src/accel/path.ts';
import type { Host, HostDevice } from '../../src/host/host.ts';
import { openHost } from '../../src/host/registry.ts';
import { type IommuConfig, type SimDevice, type SimKernel, simKernel } from '../../src/host/sim/index.ts';
import { READ, WRITE } from '../../src/memory/access.ts';
import { pfnOf } from '../../src/memory/address.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { NO_PASID } from '../../src/target/target.ts';
import { GuestTables } from './guest-tables.ts';
import { TOY_PAGES, ToySpace } from './toy-space.ts';

/** Guest RAM of the fixture: two regions that are not neighbours in host memory, and a hole behind them. */
export const REGION_PAGES = 128;
/** From here to the end of the second region: a driver's, where hardware walks its tables. */
const DRIVER = 224;

/** Who the devices are to paths that do not ask. */
export const REQUESTER: Requester = { endpoint: 0, pasid: NO_PASID, stage: null };

/** What one step of a random program does to the space. */
export interface Step {
  readonly from: number;
  readonly count: number;
  readonly gpa: number;
  readonly permission: number;
}

const step = fc.record({
  from: fc.nat(TOY_PAGES - 1),
  count: fc.integer({ min: 1, max: TOY_PAGES }),
  gpa: fc.constantFrom(0, 0, 1, 64, 120),
  permission: fc.constantFrom(0, 0, 1, 2, 3, 3),
});
/** A guest operation: a few steps, one flush. */
export const program = fc.array(fc.array(step, { minLength: 1, maxLength: 3 }), { minLength: 1, maxLength: 8 });

/** Who owns the space, and what lies below the path. */
export interface Surroundings {
  readonly owner: 'target' | 'guest';
  /** Default: iommufd. */
  readonly host?: string;
  readonly dmaEntryLimit?: number;
  /** Default: none. */
  readonly nesting?: IommuConfig['nesting'];
  /** Of a second IOMMU, in front of the second device. Default: both stand behind one. */
  readonly second?: IommuConfig['nesting'];
}

/** A path with two devices on it, and a space that a test changes. */
export class Fixture {
  readonly kernel: SimKernel;
  readonly host: Host;
  readonly memory: GuestMemory;
  readonly devices: readonly SimDevice[];
  readonly space: ToySpace;
  readonly path: Path;
  readonly hostDevices: readonly HostDevice[];
  readonly #kind: PathKind;
  readonly #tables: GuestTables | null;
  /** First host page of each region. */
  readonly #hostPfns: readonly number[];

  constructor(kind: PathKind, { owner, host = 'iommufd', dmaEntryLimit = 65535, nesting = null, second }: Surroundings) {
    this.#kind = kind;
    const iommus = host === 'vfio-spapr-tce' ? [{ tce: {} }] : [{ nesting }, ...(second === undefined ? [] : [{ nesting: second }])];
    this.kernel = simKernel({ iommus, dmaEntryLimit, devices: [{ name: 'vfio0' }, { name: 'vfio1', iommu: iommus.length - 1 }] });
    this.host = openHost(host, this.kernel);
    const regions = [0, 1].map((i) => {
      const memory = this.kernel.allocate(REGION_PAGES * 4096);
      return { gpa: BigInt(i * REGION_PAGES * 4096), buffer: memory.buffer, hostAddress: memory.address };
    });
    this.memory = new GuestMemory(regions);
    this.#hostPfns = regions.map((region) => pfnOf(region.hostAddress));
    this.space = new ToySpace(owner);
    this.devices = this.kernel.devices;
    this.hostDevices = this.devices.map(({ path, group, name }) =>
      this.host.openDevice(host === 'iommufd' ? path : `/dev/vfio/${group.number}#${name}`),
    );
    this.#tables = kind.readsGuestTables ? this.#guestTables() : null;
    this.path = this.another(this.space);
    for (const [i, device] of this.hostDevices.entries()) expect(this.path.attach(device, this.requester(i))).toBe(0);
  }

  #guestTables(): GuestTables {
    const hardware = this.host.nesting!.hardwareOf(this.hostDevices[0]);
    if (typeof hardware === 'string') throw new Error(hardware);
    return new GuestTables(hardware.kind, this.memory, DRIVER, 2 * REGION_PAGES);
  }

  /** A path of the same kind. */
  another(space: ToySpace): Path {
    const { memory, host, hostDevices } = this;
    const [device] = hostDevices;
    const staged = this.#tables && { stage: this.#tables.stage, target: { name: 'toy', stageFormat: this.#tables.format } };
    const context = { space, memory, host, device, ...staged };
    expect(this.#kind.refuse(context)).toBeNull();
    return this.#kind.create(context);
  }

  /** Who a device is. */
  requester(index: number): Requester {
    return { endpoint: index, pasid: NO_PASID, stage: this.#tables?.stage ?? null };
  }

  /** One guest operation. */
  run(steps: readonly Step[]): number {
    for (const { from, count, gpa, permission } of steps) {
      const pages = Math.min(count, TOY_PAGES - from);
      const first = this.space.base + from;
      this.space.set(from, pages, gpa + from, permission);
      this.#tables?.set(first, pages, gpa + from, permission);
      this.path.changed(first, first + pages - 1);
      for (const command of this.#tables?.commands(first, pages) ?? []) this.path.guestHardware?.invalidated(command);
    }
    return this.path.flush();
  }

  /** As a target takes back what failed: the old state, announced and flushed. */
  takeBack(pages: ToySpace['pages']): number {
    this.space.pages = pages;
    this.path.changed(this.space.base, this.space.base + TOY_PAGES - 1);
    return this.path.flush();
  }

  /** Every page is read and written, so that the hardware remembers all that it can. */
  touch(): void {
    const byte = new Uint8Array(1);
    for (const device of this.devices) {
      for (let i = 0; i < TOY_PAGES; i++) {
        const iova = BigInt(this.space.base + i) << 12n;
        if (device.dmaRead(iova, byte) === 0) device.dmaWrite(iova, byte);
      }
    }
  }

  /** What the hardware does with each page, for each device: the guest page and permission that a DMA meets. */
  hardware(device: SimDevice): (string | null)[] {
    return Array.from({ length: TOY_PAGES }, (_, i) => {
      const read = device.hostPfn(this.space.base + i, READ);
      const write = device.hostPfn(this.space.base + i, WRITE);
      if (read < 0 && write < 0) return null;
      const host = Math.max(read, write);
      const region = this.#hostPfns.findIndex((first) => host >= first && host < first + REGION_PAGES);
      if (region < 0) expect.fail(`page ${i}: DMA reaches host page 0x${host.toString(16)}, which is no guest RAM`);
      return `${host - this.#hostPfns[region] + region * REGION_PAGES}/${(read < 0 ? 0 : READ) | (write < 0 ? 0 : WRITE)}`;
    });
  }

  /** What the guest means, as `hardware` has it: first stages have no write-only pages, those can be read as well. */
  meant(): (string | null)[] {
    const isStage = this.#kind.name !== 'shadow';
    return this.space.pages.map((page) => page && `${page.gpa}/${isStage ? page.permission | READ : page.permission}`);
  }

  agrees(): void {
    for (const device of this.devices) expect(this.hardware(device)).toEqual(this.meant());
  }

  /** What is reached is meant, whatever is not. */
  hasNothingStale(): void {
    const meant = this.meant();
    for (const device of this.devices)
      for (const [i, found] of this.hardware(device).entries()) if (found !== null) expect(found, `page ${i}`).toBe(meant[i]);
  }

  /** Which devices reach nothing. */
  get blocked(): boolean[] {
    return this.devices.map((device) => this.hardware(device).every((found) => found === null));
  }

  mapCalls(): number {
    const { map, unmap, copy } = this.host.calls;
    return map + unmap + copy;
  }
}
