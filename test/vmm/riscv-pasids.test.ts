import { applyPatches, type Patch } from 'immer';
import { describe, expect, test } from 'vitest';
import { StoreWatch } from '../../src/accel/store-watch.ts';
import { errno } from '../../src/host/errno.ts';
import { openHost } from '../../src/host/registry.ts';
import { DMA_PENDING, type IommuConfig, type SimKernel, simKernel, smmuv3, vtd } from '../../src/host/sim/index.ts';
import { READ_WRITE } from '../../src/memory/access.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { Machine } from '../../src/vmm/machine.ts';
import { DDT, fence, Guest, type GuestTable, invalDdt, invalPdt, invalVma } from '../target/riscv/guest.ts';

/* Process contexts of passed-through devices ("Process-directory-table"; IODIR.INVAL_PDT and IODIR.INVAL_DDT). */

const RAM_PAGES = 2048;
const DEVICES = [8, 16] as const;
const [DEVICE] = DEVICES;
const PD8 = 1;
const PDTV = 1 << 5;
const DPE = 1 << 9;
/** IOVA page, and the guest pages that tables 0 and 1 have there. */
const PAGE = 0x200;
const DATA = [1024, 1536] as const;

interface Parts {
  readonly host?: string;
  readonly iommu?: IommuConfig;
  readonly path?: string;
  readonly group?: number;
  readonly pageRequests?: boolean;
  /** Pages that can be watched; null: nobody watches. Left out: any number. */
  readonly watchedPages?: number | null;
}

/** A RISC-V guest whose devices have a process directory, and two tables for processes. */
class ProcessGuest {
  readonly kernel: SimKernel;
  readonly guest: Guest;
  readonly machine: Machine;
  readonly tables: readonly GuestTable[];
  readonly directory: number;
  /** Told of stores only where a test does that. */
  readonly watch: StoreWatch;
  readonly #host: string;

  constructor({ host: kind = 'iommufd', iommu = { pasidLog2: 8 }, path = 'auto', group, pageRequests = false, watchedPages }: Parts = {}) {
    this.watch = new StoreWatch(watchedPages ?? undefined);
    const devices = ['vfio0', 'vfio1'].map((name) => ({ name, pageRequests, ...(group !== undefined && { group }) }));
    this.kernel = simKernel({ iommus: [kind === 'vfio-spapr-tce' ? { tce: {} } : iommu], devices });
    this.#host = kind;
    const host = openHost(kind, this.kernel);
    const ram = this.kernel.allocate(RAM_PAGES * 4096);
    const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
    this.guest = new Guest({}, RAM_PAGES, {}, memory);
    for (const device of DEVICES) this.guest.iommu.addEndpoint(device);
    const hearing = pageRequests || watchedPages === null ? {} : { watch: this.watch };
    this.machine = new Machine({ memory, target: this.guest.iommu, host, path, schedule: () => {}, ...hearing });
    this.guest.start();
    this.directory = this.guest.pool.allocate(1);
    this.tables = DATA.map((to) => {
      const made = this.guest.table('sv39');
      made.table.map(PAGE, to, 4, READ_WRITE);
      memory.store64(0, to * 4096, 0, to);
      return made;
    });
    for (const device of DEVICES) this.guest.setContext(device, { first: { mode: PD8, root: this.directory, pscid: 0 }, tc: PDTV });
    this.guest.command(...DEVICES.map(invalDdt), fence());
  }

  passThrough(i = 0): this {
    const { path, group, name } = this.kernel.devices[i];
    this.machine.passThrough(DEVICES[i], this.#host === 'iommufd' ? path : `/dev/vfio/${group.number}#${name}`);
    return this;
  }

  /** A process-context: ta and fsc, V last; null: not valid. */
  setProcess(process: number, table: 0 | 1 | null): void {
    const at = this.directory * 4096 + process * 16;
    if (table !== null) this.guest.memory.store64(0, at + 8, 8 << 28, this.tables[table].root);
    this.guest.memory.store64(0, at, 0, table === null ? 0 : ((table + 1) << 12) | 1);
  }

  /** A store of the guest's CPU, which the machine's watch sees. Whether somebody wanted to know of it. */
  store(at: number, hi: number, lo: number): boolean {
    this.guest.memory.store64(0, at, hi, lo);
    return this.watch.stored(BigInt(at), 8);
  }

  /** The same, and the IOMMU hears of it. */
  tell(process: number, table: 0 | 1 | null): void {
    this.setProcess(process, table);
    this.guest.command(invalPdt(DEVICE, process), fence());
  }

  /** What a device's request with the PASID reads at PAGE; null: nothing. */
  read(pasid: number, i = 0): number | null {
    const bytes = new Uint8Array(4);
    const code = this.kernel.devices[i].dmaRead(BigInt(PAGE) << 12n, bytes, pasid);
    return code < 0 ? null : new DataView(bytes.buffer).getUint32(0, true);
  }

  state(pasid: number, endpoint: number = DEVICE) {
    return this.machine.state.processes?.[`${endpoint}/${pasid}`];
  }
}

describe('a process of a passed-through device', () => {
  test('reaches what its context says from IODIR.INVAL_PDT on, and nothing when that is not valid any more', () => {
    const made = new ProcessGuest().passThrough();
    expect(made.read(5)).toBeNull();
    expect(made.machine.state.processes).toBeUndefined();
    made.tell(5, 0);
    expect(made.read(5)).toBe(DATA[0]);
    expect(made.state(5)).toEqual({ space: 'PSCID 1 (sv39)', path: 'shadow, watched', refused: expect.anything() });
    made.tell(6, 1);
    made.tell(5, 1);
    expect([made.read(5), made.read(6), made.read(7)]).toEqual([DATA[1], DATA[1], null]);
    made.tell(5, null);
    expect([made.read(5), made.read(6)]).toEqual([null, DATA[1]]);
    expect([made.state(5), made.state(6)?.path]).toEqual([undefined, 'shadow, watched']);
    // What it unmaps is gone for the device as well.
    made.tables[1].table.unmap(PAGE, 1);
    made.guest.command(invalVma({ pscid: 2 }), fence());
    expect(made.read(6)).toBeNull();
    made.machine.close();
    expect(made.machine.state).toEqual({ target: 'riscv', host: 'iommufd', endpoints: {} });
    expect(made.kernel.live()['descriptors']).toBe(1);
  });

  test('that was valid before its device had a directory is found by IODIR.INVAL_DDT', () => {
    const made = new ProcessGuest().passThrough();
    made.setProcess(5, 0);
    made.setProcess(255, 1);
    expect([made.read(5), made.read(255)]).toEqual([null, null]);
    made.guest.command(invalDdt(DEVICE), fence());
    expect([made.read(5), made.read(255)]).toEqual([DATA[0], DATA[1]]);
    made.guest.setContext(DEVICE, { valid: false });
    made.guest.command(invalDdt(DEVICE), fence());
    expect([made.read(5), made.read(255), made.machine.state.processes]).toEqual([null, null, undefined]);
  });

  test('that becomes valid without a command is there before the store completes, where its directory is watched', () => {
    const made = new ProcessGuest().passThrough();
    const at = made.directory * 4096 + 5 * 16;
    expect(made.store(at + 8, 8 << 28, made.tables[0].root)).toBe(true);
    expect(made.read(5)).toBeNull();
    made.store(at, 0, (1 << 12) | 1);
    expect([made.read(5), made.state(5)?.path]).toEqual([DATA[0], 'shadow, watched']);
    // The IOMMU may have it in a cache, and software has: it goes by IODIR.INVAL_PDT.
    made.store(at, 0, 0);
    expect(made.read(5)).toBe(DATA[0]);
    made.guest.command(invalPdt(DEVICE, 5), fence());
    expect([made.read(5), made.state(5)]).toEqual([null, undefined]);
    made.machine.remove(DEVICE);
    expect([made.store(at, 0, (1 << 12) | 1), made.watch.size]).toEqual([false, 0]);
  });

  test('of a device whose context becomes valid without a command, as the device itself, is there before the store completes', () => {
    const made = new ProcessGuest();
    const at = (device: number) => DDT * 4096 + device * 64;
    made.guest.setContext(DEVICE, { valid: false });
    made.guest.command(invalDdt(DEVICE), fence());
    made.passThrough();
    made.setProcess(5, 0);
    expect([made.read(5), made.watch.size]).toEqual([null, 1]);
    expect(made.store(at(DEVICE) + 24, (1 << 28) | 0, made.directory)).toBe(true);
    expect(made.read(5)).toBeNull();
    made.store(at(DEVICE), 0, PDTV | 1);
    expect([made.read(5), made.state(5)?.path]).toEqual([DATA[0], 'shadow, watched']);
    // From now on its processes are watched, and not its context: that may be in a cache.
    expect(made.store(at(DEVICE), 0, 0)).toBe(false);
    made.store(made.directory * 4096 + 6 * 16 + 8, 8 << 28, made.tables[1].root);
    made.store(made.directory * 4096 + 6 * 16, 0, (2 << 12) | 1);
    expect([made.read(5), made.read(6)]).toEqual([DATA[0], DATA[1]]);
    made.guest.command(invalDdt(DEVICE), fence());
    expect([made.read(5), made.read(6)]).toEqual([null, null]);
    made.store(at(DEVICE), 0, PDTV | 1);
    expect([made.read(5), made.read(6)]).toEqual([DATA[0], DATA[1]]);
    made.machine.remove(DEVICE);
    expect(made.watch.size).toBe(0);
  });

  test.each(['iommufd', 'vfio-type1'])('stands in for requests without one (DPE), and becomes valid without a command, on %s', (host) => {
    const made = new ProcessGuest({ host });
    made.guest.setContext(DEVICE, { first: { mode: PD8, root: made.directory, pscid: 0 }, tc: PDTV | DPE });
    made.guest.command(invalDdt(DEVICE), fence());
    made.passThrough();
    const at = made.directory * 4096;
    made.store(at + 8, 8 << 28, made.tables[0].root);
    expect(made.read(-1)).toBeNull();
    made.store(at, 0, (1 << 12) | 1);
    expect([made.read(-1), made.machine.state.endpoints[DEVICE].path]).toEqual([DATA[0], 'shadow, watched']);
  });

  test('of a device behind a directory that becomes valid without a command is there as well; a step that is not valid yet is not read behind', () => {
    const made = new ProcessGuest({ host: 'vfio-type1' });
    const [device, leaf] = [9 * 64 + 3, made.guest.pool.allocate(1)];
    made.guest.iommu.addEndpoint(device);
    // Two levels (DDTP.MODE 3): the contexts of one table are the entries of the other now.
    made.guest.setMode(0);
    for (let at = 0; at < 4096; at += 8) made.guest.memory.store64(0, DDT * 4096 + at, 0, 0);
    made.guest.setMode(3);
    const { path: _, group, name } = made.kernel.devices[0];
    made.machine.passThrough(device, `/dev/vfio/${group.number}#${name}`);
    expect(made.watch.size).toBe(1);
    const { root } = made.tables[0];
    expect(made.store(leaf * 4096 + 3 * 64, 0, 1)).toBe(false);
    made.guest.memory.store64(0, leaf * 4096 + 3 * 64, 0, 0);
    made.store(DDT * 4096 + 9 * 8, 0, (leaf << 10) | 1);
    expect(made.watch.size).toBe(2);
    made.store(leaf * 4096 + 3 * 64 + 24, 8 << 28, root);
    expect(made.read(-1)).toBeNull();
    expect(made.store(leaf * 4096 + 3 * 64, 0, 1)).toBe(true);
    expect([made.read(-1), made.machine.state.endpoints[device].path]).toEqual([DATA[0], 'shadow, watched']);
    // Off: no directory is asked any more.
    made.guest.setMode(0);
    made.machine.remove(device);
    expect(made.watch.size).toBe(0);
  });

  test('of a PD17 is found behind a table that becomes valid under the watch', () => {
    const made = new ProcessGuest().passThrough();
    const [root, leaf] = [made.guest.pool.allocate(1), made.guest.pool.allocate(1)];
    made.guest.setContext(DEVICE, { first: { mode: 2, root, pscid: 0 }, tc: PDTV });
    made.guest.command(invalDdt(DEVICE), fence());
    const process = 3 * 256 + 9;
    made.store(leaf * 4096 + 9 * 16, 0, (2 << 12) | 1);
    made.store(leaf * 4096 + 9 * 16 + 8, 8 << 28, made.tables[1].root);
    expect(made.kernel.devices[0].pasidLog2).toBe(8);
    made.store(root * 4096 + 3 * 8, 0, (leaf << 10) | 1);
    // It is told of; the hardware's PASIDs are narrower.
    expect(made.state(process)).toMatchObject({
      space: 'PSCID 2 (sv39)',
      path: 'blocked',
      refused: [{ reason: expect.stringMatching(/8 bits/) }],
    });
    made.store(root * 4096, 0, (leaf << 10) | 1);
    expect(made.read(9)).toBe(DATA[1]);
    // The leaf is watched by now.
    made.store(leaf * 4096 + 7 * 16 + 8, 8 << 28, made.tables[0].root);
    made.store(leaf * 4096 + 7 * 16, 0, (1 << 12) | 1);
    expect(made.read(7)).toBe(DATA[0]);
  });

  test('is there when its device comes later, goes with it, and with a reset', () => {
    const made = new ProcessGuest();
    made.tell(5, 0);
    expect(made.machine.state.processes).toBeUndefined();
    made.passThrough();
    expect([made.read(5), made.state(5)?.path]).toEqual([DATA[0], 'shadow, watched']);
    made.machine.remove(DEVICE);
    expect([made.read(5), made.machine.state.processes]).toEqual([null, undefined]);
    made.passThrough();
    expect(made.read(5)).toBe(DATA[0]);
    made.guest.iommu.reset();
    expect([made.read(5), made.machine.state.processes]).toEqual([null, undefined]);
  });

  test('goes with its endpoint', () => {
    const made = new ProcessGuest().passThrough();
    made.tell(5, 0);
    made.guest.iommu.removeEndpoint(DEVICE);
    expect([made.read(5), made.machine.state.processes]).toEqual([null, undefined]);
  });

  test('is there again in a machine that takes the state up', () => {
    const made = new ProcessGuest().passThrough();
    made.tell(5, 0);
    const saved = made.machine.save();
    made.guest.iommu.reset();
    expect(made.read(5)).toBeNull();
    made.machine.load(saved);
    expect([made.read(5), made.state(5)?.path]).toEqual([DATA[0], 'shadow, watched']);
  });

  test('is told by patches, the first and the last too', () => {
    const made = new ProcessGuest().passThrough();
    const before = made.machine.state;
    const [done, undo]: [Patch[], Patch[][]] = [[], []];
    made.machine.onChange((patches, inverse) => {
      done.push(...patches);
      undo.unshift([...inverse]);
    });
    for (const [process, table] of [
      [5, 0],
      [6, 1],
      [5, 1],
      [5, null],
      [6, null],
      [7, 0],
    ] as const)
      made.tell(process, table);
    expect(applyPatches(before, done)).toEqual(made.machine.state);
    expect(applyPatches(made.machine.state, undo.flat())).toEqual(before);
  });

  test('is with one of two devices, and shares what the other reaches', () => {
    const made = new ProcessGuest().passThrough(0).passThrough(1);
    made.tell(5, 0);
    expect([made.read(5, 0), made.read(5, 1)]).toEqual([DATA[0], null]);
    const mappings = made.kernel.hooks.counts.get('IOMMU_IOAS_MAP');
    made.guest.command(invalPdt(DEVICES[1], 5), fence());
    expect([made.read(5, 1), made.kernel.hooks.counts.get('IOMMU_IOAS_MAP')]).toEqual([DATA[0], mappings]);
  });

  test('is on the path that is wished for, and goes to another while it runs', () => {
    const made = new ProcessGuest({ iommu: { nesting: vtd(), pasidLog2: 8 } }).passThrough();
    made.tell(5, 0);
    expect(made.state(5)?.path).toBe('user-owned, watched');
    const unobserve = made.kernel.hooks.observe({ after: () => expect(made.read(5)).toBe(DATA[0]) });
    for (const path of ['shadow', 'user-owned', 'auto']) {
      made.machine.changePath(path);
      expect([made.read(5), made.state(5)?.path]).toEqual([DATA[0], path === 'shadow' ? 'shadow, watched' : 'user-owned, watched']);
    }
    unobserve();
  });

  test('reaches no guest RAM that is gone', () => {
    const made = new ProcessGuest().passThrough();
    const { memory } = made.guest;
    const ram = made.kernel.allocate(4096);
    memory.add({ gpa: 0x800_0000n, buffer: ram.buffer, hostAddress: ram.address });
    made.tables[0].table.unmap(PAGE, 1);
    made.tables[0].table.map(PAGE, 0x8000, 1, READ_WRITE);
    made.tell(5, 0);
    expect(made.read(5)).toBe(0);
    memory.remove(0x800_0000n);
    expect(made.read(5)).toBeNull();
  });
});

describe('a directory in which something can become valid that nobody sees', () => {
  const reasonsOf = (made: ProcessGuest) => made.machine.state.endpoints[DEVICE].refused.map(({ reason }) => reason);
  const UNSEEN = /^process directory of device 8: (.*), so what becomes valid in it without a command is not seen$/;

  test('has its reason in the state of its endpoint where nobody watches, until there is none', () => {
    const made = new ProcessGuest({ watchedPages: null }).passThrough();
    expect(reasonsOf(made).at(-1)).toMatch(UNSEEN);
    expect(reasonsOf(made).at(-1)).toMatch(/no TableWatch/);
    made.guest.setContext(DEVICE, { first: { mode: 8, root: made.tables[0].root, pscid: 1 } });
    made.guest.command(invalDdt(DEVICE), fence());
    expect(reasonsOf(made).filter((reason) => UNSEEN.test(reason))).toEqual([]);
  });

  test('has it from the store on that leads to more than can be watched, and no longer than that', () => {
    const made = new ProcessGuest({ watchedPages: 1 }).passThrough();
    const [root, leaf] = [made.guest.pool.allocate(1), made.guest.pool.allocate(1)];
    made.guest.setContext(DEVICE, { first: { mode: 2, root, pscid: 0 }, tc: PDTV });
    made.guest.command(invalDdt(DEVICE), fence());
    expect(reasonsOf(made).filter((reason) => UNSEEN.test(reason))).toEqual([]);
    made.store(root * 4096, 0, (leaf << 10) | 1);
    expect(reasonsOf(made).at(-1)).toMatch(UNSEEN);
    expect(reasonsOf(made).at(-1)).toMatch(/not all of it can be watched/);
    made.store(root * 4096, 0, 0);
    expect(reasonsOf(made).filter((reason) => UNSEEN.test(reason))).toEqual([]);
  });
});

describe('a process that is not attached has its reason in the state', () => {
  const reasonOf = (made: ProcessGuest, pasid = 5) => {
    made.tell(pasid, 0);
    expect([made.read(pasid), made.state(pasid)?.path]).toEqual([null, 'blocked']);
    return made
      .state(pasid)
      ?.refused.map(({ reason }) => reason)
      .join('; ');
  };

  test.each(['vfio-type1', 'vfio-spapr-tce'])('%s has no PASIDs', (host) => {
    const made = new ProcessGuest({ host }).passThrough();
    expect(reasonOf(made)).toBe(`${host} attaches no PASIDs`);
    made.tell(5, null);
    expect(made.state(5)).toBeUndefined();
  });

  test('hardware without PASIDs, and PASIDs wider than its own', () => {
    expect(reasonOf(new ProcessGuest({ iommu: {} }).passThrough())).toMatch(/known to have PASIDs/);
    expect(reasonOf(new ProcessGuest({ iommu: { pasidLog2: 2 } }).passThrough())).toMatch(/its PASIDs have 2 bits/);
  });

  test('a group of several devices, as long as there are several', () => {
    const made = new ProcessGuest({ group: 7 }).passThrough(0);
    made.tell(5, 0);
    expect(made.read(5)).toBe(DATA[0]);
    made.passThrough(1);
    expect([made.read(5), made.state(5)?.refused[0].reason]).toEqual([null, expect.stringMatching(/group 7 has several devices/)]);
    made.machine.remove(DEVICES[1]);
    expect([made.read(5), made.state(5)?.path]).toEqual([DATA[0], 'shadow, watched']);
  });

  test('an SMMUv3 beside a first stage of ours; on the shadow path it is served', () => {
    const made = new ProcessGuest({ iommu: { nesting: smmuv3(), pasidLog2: 8 } }).passThrough();
    expect(made.machine.state.endpoints[DEVICE].path).toMatch(/^(shadow|user-owned)/);
    made.machine.changePath('user-owned');
    expect(reasonOf(made)).toMatch(/user-owned: beside such a first stage the hardware takes no PASIDs/);
    made.machine.changePath('shadow');
    expect([made.read(5), made.state(5)?.path]).toEqual([DATA[0], 'shadow, watched']);
    made.machine.changePath('user-owned');
    expect([made.read(5), made.state(5)?.path]).toEqual([null, 'blocked']);
  });

  test('a host call that failed; the next guest operation tries again', () => {
    const made = new ProcessGuest().passThrough();
    made.kernel.hooks.fail({ kind: 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', nth: 1, times: Number.POSITIVE_INFINITY, errno: errno.ENOMEM });
    expect(reasonOf(made)).toMatch(/VFIO_DEVICE_ATTACH_IOMMUFD_PT: ENOMEM/);
    made.kernel.hooks.reset();
    made.guest.command(fence());
    expect([made.read(5), made.state(5)?.path]).toEqual([DATA[0], 'shadow, watched']);
  });
});

test('what a process asks for and has not mapped is the fault of that process', () => {
  const made = new ProcessGuest({ pageRequests: true }).passThrough();
  made.tell(5, 0);
  const [device] = made.kernel.devices;
  const ask = (page: number) => device.dmaRead(BigInt(page) << 12n, new Uint8Array(1), 5);
  expect([ask(PAGE), ask(PAGE + 16)]).toEqual([DMA_PENDING, DMA_PENDING]);
  made.machine.poll();
  expect([device.responses, made.read(5)]).toEqual([[0, 1], DATA[0]]);
  // "Fault/Event-Queue": PID in bits 31:12, PV in bit 32, DID from bit 40 on; iotval in doubleword 2.
  const [[word0, , iotval]] = made.guest.takeFaults();
  expect([(word0 >> 12n) & 0xfffffn, (word0 >> 32n) & 1n, word0 >> 40n, iotval]).toEqual([
    5n,
    1n,
    BigInt(DEVICE),
    BigInt(PAGE + 16) << 12n,
  ]);
});
