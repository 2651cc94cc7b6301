import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { StoreWatch } from '../../src/accel/store-watch.ts';
import { errno, HostError } from '../../src/host/errno.ts';
import { openHost } from '../../src/host/registry.ts';
import { amd, DMA_PENDING, type IommuConfig, type SimDevice, type SimKernel, simKernel, smmuv3, vtd } from '../../src/host/sim/index.ts';
import { READ, READ_WRITE, WRITE } from '../../src/memory/access.ts';
import { hiOfPfn, loOfPfn, pfnOf, pfnOfHiLo } from '../../src/memory/address.ts';
import type { GuestMemory, GuestRegion } from '../../src/memory/guest-memory.ts';
import { type AddressSpace, NO_PASID, type Target } from '../../src/target/target.ts';
import { Machine } from '../../src/vmm/machine.ts';
import type { EndpointState } from '../../src/vmm/machine-state.ts';
import { type Run, runsOf } from '../target/hardware.ts';
import type { TargetFixture, TargetSubject } from '../target/suite.ts';

/** Hardware in front of the passed-through devices, and the interface it is reached by. */
export interface HostHardware {
  readonly host: 'iommufd' | 'vfio-type1' | 'vfio-spapr-tce';
  readonly nesting: () => NonNullable<IommuConfig['nesting']> | null;
  /** That the devices stand behind in turn. Default 1. */
  readonly iommus?: number;
  /** Width of PASIDs; left out: devices send none. */
  readonly pasidLog2?: number;
  /** Whether a page lies where the host can map whatever else there is. Left out: every one does. */
  readonly reaches?: (pfn: number) => boolean;
}

export const hardwares: Readonly<Record<string, HostHardware>> = {
  'type1, plain hardware': { host: 'vfio-type1', nesting: () => null },
  'iommufd, plain hardware': { host: 'iommufd', nesting: () => null },
  // POWER hosts have a window of 2 GiB, and further ones from 2^59 on.
  'sPAPR TCE': { host: 'vfio-spapr-tce', nesting: () => null, reaches: (pfn) => pfn < 2 ** 19 || pfn >= 2 ** 47 },
  'iommufd, AMD': { host: 'iommufd', nesting: () => amd() },
  'iommufd, VT-d': { host: 'iommufd', nesting: () => vtd() },
  'iommufd, SMMUv3': { host: 'iommufd', nesting: () => smmuv3() },
  'iommufd, SMMUv3 with a command queue': { host: 'iommufd', nesting: () => smmuv3({ tegra241: {} }) },
};

/** The same, whose devices send requests with PASIDs beside those without. */
const pasidHardwares: Readonly<Record<string, HostHardware>> = {
  'iommufd, PASIDs': { host: 'iommufd', nesting: () => null, pasidLog2: 8 },
  'iommufd, VT-d, PASIDs': { host: 'iommufd', nesting: () => vtd(), pasidLog2: 8 },
};

/** The same, two IOMMUs of one kind, with devices behind each. */
const severalHardwares: Readonly<Record<string, HostHardware>> = {
  'iommufd, two VT-d': { host: 'iommufd', nesting: () => vtd(), iommus: 2 },
  'iommufd, two SMMUv3': { host: 'iommufd', nesting: () => smmuv3(), iommus: 2 },
};

/** How guests that need not announce a map are followed here: they say every change by an invalidation as well, or their devices ask. */
export type Following = 'announced' | 'on demand';

/** Pages of a space that hardware has at one time where devices ask for them: so few that they leave again. */
const RESIDENT_PAGES = 512;

/** Guest page and permission that a DMA of one page meets, as text; null: a fault. */
type Reached = string | null;

/** The guest pages that a read and a write of one page reach; -1: a fault, or no RAM. */
export type Landing = readonly [read: number, write: number];

/** Whose requests are looked at. */
export interface Requests {
  readonly endpoint: number;
  readonly device: SimDevice;
  readonly pasid: number;
}

const PAGE = 4096;

/** RAM of the simulated kernel's process in the place of what the fixture has made, with the same bytes. */
function rehouse(
  memory: GuestMemory,
  kernel: SimKernel,
): readonly { readonly gpa: number; readonly host: number; readonly pages: number }[] {
  return memory.regions.map((region: GuestRegion) => {
    const { gpa, buffer, offset = 0 } = region;
    const bytes = region.bytes ?? buffer.byteLength - offset;
    const ram = kernel.allocate(bytes);
    new Uint8Array(ram.buffer, 0, bytes).set(new Uint8Array(buffer, offset, bytes));
    memory.remove(gpa);
    memory.add({ gpa, buffer: ram.buffer, bytes, hostAddress: ram.address, ...(region.readOnly && { readOnly: true }) });
    return { gpa: pfnOf(gpa), host: pfnOf(ram.address), pages: bytes / PAGE };
  });
}

/** A guest of any target whose endpoints are devices of a simulated kernel, behind hardware that forgets nothing by itself. */
export class EquivalentGuest<Step> {
  readonly fixture: TargetFixture<Step>;
  readonly kernel: SimKernel;
  readonly machine: Machine;
  /** Of the stores of an announcing guest nothing is told to it; a test may. */
  readonly watch = new StoreWatch();
  #ram: ReturnType<typeof rehouse>;
  readonly #reaches: (pfn: number) => boolean;
  /** Endpoints whose devices the host took, with their places among all. */
  readonly #passed: readonly (readonly [endpoint: number, place: number])[];
  /** What requests of each endpoint carry. */
  readonly #pasids: readonly number[];
  #sampled: readonly number[] = [];
  /** Requests for pages that got no answer. */
  #unanswered = 0;
  /** Pages so far that a request with a PASID reached. */
  comparedProcesses = 0;
  /** Pages so far that a request reached before an operation and not after it; and those of requests with a PASID alone. */
  taken = 0;
  takenProcesses = 0;
  readonly #reachedBefore = new Set<string>();

  constructor(subject: TargetSubject<Step>, hardware: HostHardware, path: string, following: Following = 'announced') {
    const { host: kind, nesting, iommus = 1, pasidLog2 } = hardware;
    this.fixture = subject.make();
    const { memory, target, endpoints } = this.fixture;
    const devices = endpoints.map((_, i) => ({ name: `vfio${i}`, iommu: i % iommus, pageRequests: following === 'on demand' }));
    const iommu = (): IommuConfig =>
      kind === 'vfio-spapr-tce' ? { tce: {} } : { nesting: nesting(), ...(pasidLog2 !== undefined && { pasidLog2 }) };
    this.kernel = simKernel({ iommus: Array.from({ length: iommus }, iommu), devices });
    this.#pasids = [NO_PASID, ...(pasidLog2 === undefined ? [] : (this.fixture.pasids ?? []))];
    this.#ram = rehouse(memory, this.kernel);
    const host = openHost(kind, this.kernel);
    const hearing = following === 'announced' ? { watch: this.watch } : { residentPages: RESIDENT_PAGES };
    this.machine = new Machine({ memory, target, host, path, schedule: () => {}, ...hearing });
    this.#reaches = hardware.reaches ?? (() => true);
    this.#passed = [...endpoints.entries()].flatMap(([i, endpoint]) =>
      this.#passThrough(endpoint, i, kind) ? [[endpoint, i] as const] : [],
    );
    expect(this.#passed).not.toEqual([]);
  }

  /** Whose devices the host took. */
  get endpoints(): readonly number[] {
    return this.#passed.map(([endpoint]) => endpoint);
  }

  /** False: the window that its guest is promised lies where the host has none. */
  #passThrough(endpoint: number, place: number, kind: HostHardware['host']): boolean {
    const { path: node, group, name } = this.kernel.devices[place];
    try {
      this.machine.passThrough(endpoint, kind === 'iommufd' ? node : `/dev/vfio/${group.number}#${name}`);
      return true;
    } catch (error) {
      if (!(error instanceof HostError) || error.errno !== errno.ERANGE || error.range === undefined || this.#reaches(error.range.first))
        throw error;
      return false;
    }
  }

  /** One guest operation: see `does`. */
  run(step: Step): void {
    this.does(
      () => void this.fixture.run(step),
      () => this.#pages(),
    );
  }

  /** Whatever a guest does; before it, hardware remembers all that it can of the pages that it may change, and the pages after it are looked at as well. */
  does(act: () => void, pages: () => readonly number[]): void {
    const before = pages();
    this.#sampled = before;
    this.touch();
    act();
    this.#sampled = [...new Set([...before, ...pages()])];
  }

  /** Pages at the ends of what the endpoints reach, and around. */
  #pages(): number[] {
    const pages = new Set([0, 0x7ffff, 2 ** 40]);
    for (const { endpoint, pasid } of this.requests) {
      const space = this.#spaceOf(endpoint, pasid);
      const runs: readonly Run[] = space === null ? [] : runsOf(space);
      for (const { iova, pages: count } of runs.slice(0, 12))
        for (const pfn of [iova - 1, iova, iova + Math.floor(count / 2), iova + count - 1, iova + count]) pages.add(pfn);
    }
    return [...pages].filter((pfn) => pfn >= 0 && pfn < 2 ** 52);
  }

  /** Looks at these pages until the next guest operation. */
  lookAt(pages: readonly number[]): void {
    this.#sampled = pages;
  }

  get requests(): readonly Requests[] {
    return this.#passed.flatMap(([endpoint, place]) =>
      this.#pasids.map((pasid) => ({ endpoint, device: this.kernel.devices[place], pasid })),
    );
  }

  #spaceOf(endpoint: number, pasid: number): AddressSpace | null {
    const { target } = this.fixture;
    return pasid === NO_PASID ? target.spaceOf(endpoint) : target.spaceOf(endpoint, pasid);
  }

  /** Reads every page that is looked at, and writes it with what it holds. */
  touch(): void {
    const byte = new Uint8Array(1);
    for (const { device, pasid } of this.requests) {
      for (const pfn of this.#sampled) {
        const iova = BigInt(pfn) << 12n;
        this.#ask(device, pfn, READ, pasid);
        // What it has not it would ask for once more.
        const [reads, writes] = [READ, WRITE].map((access) => !device.pageRequests || device.hostPfn(pfn, access, pasid) >= 0);
        if (reads && device.dmaRead(iova, byte, pasid) === 0 && writes) device.dmaWrite(iova, byte, pasid);
      }
    }
  }

  /** A device that can waits for the page if it has it not, and the machine answers. */
  #ask(device: SimDevice, pfn: number, access: number, pasid: number): void {
    if (!device.pageRequests || device.hostPfn(pfn, access, pasid) >= 0) return;
    const [iova, byte] = [BigInt(pfn) << 12n, new Uint8Array(1)];
    const result = access === READ ? device.dmaRead(iova, byte, pasid) : device.dmaWrite(iova, byte, pasid);
    if (result !== DMA_PENDING) return;
    const { length } = device.responses;
    try {
      this.machine.poll();
    } catch (error) {
      if (!(error instanceof HostError)) throw error;
    }
    if (device.responses.length !== length + 1) this.#unanswered++;
  }

  /** Which path has the endpoint, or a PASID of it, `blocked` for none. */
  pathOf(endpoint: number, pasid = NO_PASID): string {
    return this.#stateOf(endpoint, pasid).path;
  }

  #stateOf(endpoint: number, pasid: number): Pick<EndpointState, 'path' | 'refused'> {
    const { endpoints, processes } = this.machine.state;
    const taken = { path: 'blocked', refused: [] };
    return pasid === NO_PASID ? (endpoints[endpoint] ?? taken) : (processes?.[`${endpoint}/${pasid}`] ?? { path: 'blocked', refused: [] });
  }

  software(endpoint: number, pasid = NO_PASID): Reached[] {
    return this.#reached(this.meant(endpoint, pasid));
  }

  hardware(device: SimDevice, pasid = NO_PASID): Reached[] {
    return this.#reached(this.found(device, pasid));
  }

  /** What the target means, or another of its kind. */
  meant(endpoint: number, pasid: number, target: Target = this.fixture.target): Landing[] {
    return this.#landings((pfn, access) => {
      const lg2 = target.translate(endpoint, pasid, hiOfPfn(pfn), loOfPfn(pfn), access);
      return lg2 < 0 ? -1 : pfnOfHiLo(target.translated[1], target.translated[0]);
    });
  }

  /** What hardware does. */
  found(device: SimDevice, pasid: number): Landing[] {
    return this.#landings((pfn, access) => {
      this.#ask(device, pfn, access, pasid);
      const host = device.hostPfn(pfn, access, pasid);
      const region = this.#ram.find(({ host: first, pages }) => host >= first && host < first + pages);
      if (host >= 0 && region === undefined)
        expect.fail(`page 0x${pfn.toString(16)} reaches host page 0x${host.toString(16)}, which is no RAM`);
      return region === undefined ? -1 : host - region.host + region.gpa;
    });
  }

  #landings(find: (pfn: number, access: number) => number): Landing[] {
    // What software reaches outside RAM (doorbells, registers) no host maps.
    const inRam = (page: number) => (this.#ram.some(({ gpa, pages }) => page >= gpa && page < gpa + pages) ? page : -1);
    return this.#sampled.map((pfn) => [inRam(find(pfn, READ)), inRam(find(pfn, WRITE))]);
  }

  #reached(landings: readonly Landing[]): Reached[] {
    return landings.map(([read, write], i) => {
      if (read < 0 && write < 0) return null;
      const where = read < 0 || write < 0 || read === write ? `${Math.max(read, write)}` : `${read} and ${write}`;
      return `0x${this.#sampled[i].toString(16)} → ${where}/${(read < 0 ? 0 : READ) | (write < 0 ? 0 : WRITE)}`;
    });
  }

  /**
   * Throws where hardware and software differ. A device that no path of the wish could take, or whose endpoint is gone, has to reach nothing. First stages of ours have no
   * write-only pages (docs/paths.md). Answers how many pages were compared that a path serves.
   */
  check(): number {
    let compared = 0;
    expect(this.#unanswered).toBe(0);
    for (const { endpoint, device, pasid } of this.requests) {
      const { path, refused } = this.#stateOf(endpoint, pasid);
      const hardware = this.hardware(device, pasid);
      // That nobody watches a directory is no reason of what is told.
      const isRefused = path === 'blocked' && refused.some(({ reason }) => !reason.endsWith('without a command is not seen'));
      const isGone = this.fixture.target.knows?.(endpoint) === false || this.#isUntold(endpoint, pasid);
      const software = isRefused || isGone ? hardware.map(() => null) : this.#within(this.software(endpoint, pasid), hardware);
      const widen = (pages: readonly Reached[]) =>
        path.startsWith('user-owned') ? pages.map((page) => page?.replace(/\/2$/, `/${READ_WRITE}`) ?? null) : pages;
      // What is filled on demand is write-only until the first write has brought it.
      const reached = path.endsWith('on demand') ? widen(hardware) : hardware;
      expect(reached, `endpoint ${endpoint}, PASID ${pasid} on ${path}`).toEqual(widen(software));
      const pages = hardware.filter((page) => page !== null).length;
      compared += pages;
      const taken = this.#taken(`${endpoint}/${pasid}`, hardware);
      this.taken += taken;
      if (pasid === NO_PASID) continue;
      this.comparedProcesses += pages;
      this.takenProcesses += taken;
    }
    return compared;
  }

  /** How many of the pages that are looked at the requester reached the last time, and does not any more. */
  #taken(requester: string, hardware: readonly Reached[]): number {
    let taken = 0;
    for (const [i, page] of hardware.entries()) {
      const place = `${requester}/${this.#sampled[i]}`;
      if (page !== null) this.#reachedBefore.add(place);
      else if (this.#reachedBefore.delete(place)) taken++;
    }
    return taken;
  }

  /** Without what the host could not map; that is said. */
  #within(software: readonly Reached[], hardware: readonly Reached[]): Reached[] {
    return software.map((page, i) => {
      if (page === null || hardware[i] !== null || this.#reaches(this.#sampled[i])) return page;
      expect(this.machine.hostError).toBeInstanceOf(HostError);
      return null;
    });
  }

  /** Where no table tells PASIDs apart, any of them reaches what requests without one do, and hardware has those that the guest has told of. */
  #isUntold(endpoint: number, pasid: number): boolean {
    if (pasid === NO_PASID || this.fixture.target.pasidsOf?.(endpoint).includes(pasid)) return false;
    const space = this.#spaceOf(endpoint, pasid);
    return space !== null && space === this.#spaceOf(endpoint, NO_PASID);
  }

  /**
   * The same where host calls fail: what the hardware has is what software has, or nothing, as long as the guest owns its tables. Of what a
   * target owns the guest has been told that it failed, and may have more until the next operation.
   */
  checkNothingStale(): void {
    for (const { endpoint, device, pasid } of this.requests) {
      // A fault in software can be what blocks the device.
      const software = this.software(endpoint, pasid);
      const hardware = this.hardware(device, pasid);
      if (this.#spaceOf(endpoint, pasid)?.owner === 'target') continue;
      hardware.forEach((page, at) => {
        if (page !== null)
          expect(page.replace(/\/3$/, '/2'), `endpoint ${endpoint}, PASID ${pasid}`).toBe(software[at]?.replace(/\/3$/, '/2'));
      });
    }
  }

  /** All guest RAM lies elsewhere on the host from now on, with the same bytes. */
  moveRam(): void {
    this.#ram = rehouse(this.fixture.memory, this.kernel);
  }

  /** What is said to be blocked is so: an endpoint's requests without a PASID. */
  checkBlocked(): void {
    for (const { endpoint, device, pasid } of this.requests) {
      if (pasid !== NO_PASID || this.pathOf(endpoint) !== 'blocked') continue;
      expect(this.hardware(device), `endpoint ${endpoint} is said to be blocked`).toEqual(this.#sampled.map(() => null));
    }
  }

  /** No request reaches anything. */
  get reachesNothing(): boolean {
    return this.requests.every(({ device, pasid }) => this.hardware(device, pasid).every((page) => page === null));
  }

  close(): void {
    this.machine.close();
  }
}

/** Of this suite, by name. */
export const everyHardware: Readonly<Record<string, HostHardware>> = { ...hardwares, ...pasidHardwares, ...severalHardwares };

/** Random guest programs of a target over hardware of each kind, on the path that is wished for. */
export function equivalenceSuite<Step>(
  subject: TargetSubject<Step>,
  path: string,
  served: readonly string[],
  following: Following = 'announced',
): void {
  describe(`${subject.name} on ${path}, ${following}`, () => {
    for (const name of served) {
      test.prop([fc.array(subject.step, { minLength: 4, maxLength: 10 })], { numRuns: 3 })(
        `${name}: after every guest operation a DMA has the address, the permission and the fault that it has in software`,
        (program) => {
          const guest = new EquivalentGuest(subject, everyHardware[name], path, following);
          let pages = 0;
          const ways = new Set<string>();
          const { mapping, processes = [], unmapping } = subject;
          const run = (steps: readonly Step[]) => {
            for (const step of steps) {
              guest.run(step);
              pages += guest.check();
              for (const endpoint of guest.endpoints) ways.add(guest.pathOf(endpoint));
            }
          };
          const hasPasids = everyHardware[name].pasidLog2 !== undefined;
          // With PASIDs, requests without one may reach something else.
          run(hasPasids ? [...mapping, ...processes, ...unmapping] : [...mapping, ...unmapping, ...processes]);
          // What is taken away right after it came, whatever the program does.
          expect(hasPasids ? guest.takenProcesses : guest.taken).toBeGreaterThan(0);
          run([...program, ...mapping]);
          if (following === 'on demand') expect(ways).toContain(`${path}, on demand`);
          // `mapping` maps something in any case.
          expect(pages).toBeGreaterThan(0);
          if (hasPasids) expect(guest.comparedProcesses).toBeGreaterThan(0);
          guest.close();
        },
      );
    }
  });
}

/** The same with host calls that fail: one, several, or all from one on, as of a device that dies. */
export function failureSuite<Step>(subject: TargetSubject<Step>, path: string, hardware: string, following: Following = 'announced'): void {
  const failure = fc.record({
    nth: fc.integer({ min: 1, max: 20 }),
    times: fc.constantFrom(1, 1, 2, 5, Number.POSITIVE_INFINITY),
    errno: fc.constantFrom(errno.ENOMEM, errno.EIO, errno.ENODEV),
  });
  test.prop([fc.array(subject.step, { minLength: 4, maxLength: 10 }), fc.array(failure, { minLength: 1, maxLength: 3 })], { numRuns: 6 })(
    `${subject.name} on ${path}, ${following}, ${hardware}: host calls fail, and no DMA reaches what the guest has taken away`,
    (program, failures) => {
      const guest = new EquivalentGuest(subject, everyHardware[hardware], path, following);
      for (const step of [...subject.mapping, ...(subject.processes ?? [])]) guest.run(step);
      const { hooks } = guest.kernel;
      for (const each of failures) hooks.fail(each);
      for (const step of [...subject.unmapping, ...program]) {
        guest.run(step);
        guest.checkNothingStale();
      }
      hooks.reset();
      for (const step of program) guest.run(step);
      guest.checkNothingStale();
      guest.close();
      expect(guest.reachesNothing).toBe(true);
    },
  );
}
