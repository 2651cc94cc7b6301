import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { errno, HostError } from '../src/host/errno.ts';
import { openHost } from '../src/host/registry.ts';
import { simKernel } from '../src/host/sim/index.ts';
import { GuestMemory } from '../src/memory/guest-memory.ts';
import { Iotlb } from '../src/memory/iotlb.ts';
import { RiscvIommu } from '../src/target/riscv/index.ts';
import { H_PUT_TCE, HypercallRegisters, SpaprIommu } from '../src/target/spapr/index.ts';
import { VtdIommu } from '../src/target/vtd/index.ts';
import { DeviceNode } from '../src/vmm/index.ts';
import { Machine } from '../src/vmm/machine.ts';
import { FUNCTIONS, UNCHECKED_FUNCTIONS } from './functions-of-entries.ts';
import { SUBJECTS, UNCHECKED } from './methods-of-classes.ts';

/*
 * What an embedder does wrong is a TypeError or RangeError at once, in one line that begins with who was called. The whole kind: every class that the
 * package's entries export is constructed with every wrong thing.
 */

const SRC = join(import.meta.dirname, '../src');
const WRONG = [undefined, null, {}, [], 7, -1, Number.NaN, 'x', 5n, true, () => 0, new Uint8Array(4)];

/** Whose arguments may be anything. */
const NOT_CHECKED: Readonly<Record<string, string>> = {
  HostError: 'its arguments are the words of a message',
  VfioUserServer: 'its constructor is private',
};

type Exported = (new (...args: unknown[]) => unknown) & ((...args: unknown[]) => unknown);

async function exportedFunctions(): Promise<[string, Exported][]> {
  const entries = readdirSync(SRC, { recursive: true, encoding: 'utf8' }).filter(
    (file) => /(^|\/)index\.ts$/.test(file) && !file.startsWith('cli/') && (!file.startsWith('host/') || file.split('/').length === 3),
  );
  const found = new Map<string, Exported>();
  for (const entry of entries) {
    const exported = (await import(join(SRC, entry))) as Record<string, unknown>;
    for (const [name, value] of Object.entries(exported)) if (typeof value === 'function') found.set(name, value as Exported);
  }
  return [...found];
}

const exported = await exportedFunctions();
const isClass = (value: unknown) => /^class\b/.test(Function.prototype.toString.call(value));
const classes = exported.filter(([, value]) => isClass(value));
const functions = exported.filter(([, value]) => !isClass(value));
const takesNothing = (value: unknown) => /^[^(]*\(\)/.test(Function.prototype.toString.call(value));

/** Each wrong type in each place: what was let through, or refused in other than one line that begins with who was called. */
async function letThrough(right: readonly unknown[], call: (args: readonly unknown[]) => unknown): Promise<string[]> {
  const found = new Set<string>();
  for (const [at, argument] of right.entries())
    for (const wrong of WRONG) {
      // What is left out has its default; an object may be of nothing but optional parts, and null may be none.
      if (typeof wrong === typeof argument || wrong === undefined) continue;
      try {
        await call(right.with(at, wrong));
        found.add(`${typeof wrong} as ${at}`);
      } catch (error) {
        const told = error as Error;
        const isOneLine = (error instanceof TypeError || error instanceof RangeError) && /^[A-Za-z0-9][\w -]*: [^\n]+$/.test(told.message);
        if (!isOneLine) found.add(`${typeof wrong} as ${at}: ${told.message}`);
      }
    }
  return [...found];
}

describe('constructors', () => {
  /** `constructor()`, or none. */
  const isPlain = (Class: unknown) => !/\bconstructor\(\s*[^)\s]/.test(Function.prototype.toString.call(Class));

  test.each(classes.filter(([name, Class]) => NOT_CHECKED[name] === undefined && !isPlain(Class)))('%s', (_, Class) => {
    let refused = 0;
    for (const first of WRONG)
      for (const second of WRONG) {
        try {
          new Class(first, second);
        } catch (error) {
          refused++;
          // The system's own words for a file that is not there.
          if ((error as NodeJS.ErrnoException).code === 'ENOENT') continue;
          expect(error instanceof TypeError || error instanceof RangeError, `${String(error)}`).toBe(true);
          expect((error as Error).message).toMatch(/^[A-Z0-9a-z][\w -]*: [^\n]+$/);
        }
      }
    // What is right by chance, as a capacity of 7, an empty list, or an object of nothing but optional parts, is few.
    expect(refused).toBeGreaterThan((WRONG.length * WRONG.length) / 2);
  });

  test('the classes that are not looked at are there', () => {
    for (const name of Object.keys(NOT_CHECKED)) expect(classes.map(([known]) => known)).toContain(name);
    expect(classes.length).toBeGreaterThan(25);
  });
});

describe('methods', () => {
  /** Methods that take something, inherited ones too. */
  const methodsOf = (Class: { readonly prototype: object }) => {
    const names = new Set<string>();
    for (let at = Class.prototype; at !== Object.prototype; at = Object.getPrototypeOf(at))
      for (const [name, { value }] of Object.entries(Object.getOwnPropertyDescriptors(at)))
        if (name !== 'constructor' && typeof value === 'function' && !takesNothing(value)) names.add(name);
    return [...names];
  };
  const isUnchecked = (of: string, method: string) =>
    UNCHECKED.some((entry) => (entry.of === of || entry.of === '*') && (entry.methods.includes(method) || entry.methods.includes('*')));

  test('each is in one of the tables, and nothing else is', () => {
    const all = classes.flatMap(([name, Class]) => methodsOf(Class).map((method) => [name, method] as const));
    const has = ([name, method]: readonly [string, string]) => SUBJECTS[name]?.methods[method] !== undefined;
    expect(all.filter((one) => has(one) === isUnchecked(...one)).map((one) => one.join('.'))).toEqual([]);
    const listed = Object.entries(SUBJECTS).flatMap(([name, { methods }]) => Object.keys(methods).map((method) => `${name}.${method}`));
    const known = new Set(all.map((one) => one.join('.')));
    expect(listed.filter((one) => !known.has(one))).toEqual([]);
  });

  test.each(Object.entries(SUBJECTS))('%s', async (_name, { make, methods }) => {
    const passed: string[] = [];
    for (const [method, right] of Object.entries(methods)) {
      const found = await letThrough(right, (args) => (make() as Record<string, Exported>)[method]!(...args));
      passed.push(...found.map((text) => `${method}: ${text}`));
    }
    expect(passed).toEqual([]);
  });
});

describe('functions', () => {
  test('each is in one of the tables, and nothing else is', () => {
    const all = functions.filter(([, value]) => !takesNothing(value)).map(([name]) => name);
    expect(all.toSorted()).toEqual([...Object.keys(FUNCTIONS), ...Object.keys(UNCHECKED_FUNCTIONS)].toSorted());
  });

  test.each(Object.entries(FUNCTIONS))('%s', async (name, right) => {
    const call = new Map(functions).get(name)!;
    expect(await letThrough(right, (args) => call(...args))).toEqual([]);
  });
});

function pseries(path = 'auto') {
  const kernel = simKernel({ devices: [{ name: 'vfio0' }, { name: 'vfio1' }] });
  const ram = kernel.allocate(1 << 18);
  const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
  const window = { liobn: 0x80000000, start: 0n, pageLg2: 12, pages: 64 };
  const target = new SpaprIommu({ memory, bridges: [{ buid: 1n, endpoints: [0, 8], windows: [window] }] });
  const host = openHost('iommufd', kernel);
  return { kernel, memory, target, host, machine: new Machine({ memory, target, host, path }) };
}

/** Options that are one thing wrong each. */
describe('options', () => {
  const memory = GuestMemory.ofBytes(1 << 16);
  const riscv = (config: object) => () => new RiscvIommu(config, { memory });
  const cases: readonly [string, () => unknown, RegExp][] = [
    ['capabilities as a number', riscv({ capabilities: 5 }), /^RiscvIommu: capabilities 5 is no bigint$/],
    [
      'capabilities above 64 bits',
      riscv({ capabilities: 1n << 64n }),
      /^RiscvIommu: capabilities 18446744073709551616 does not fit 64 bits$/,
    ],
    ['capabilities below 0', riscv({ capabilities: -1n }), /^RiscvIommu: capabilities -1 /],
    ['a number as text', riscv({ counters: '8' }), /^RiscvIommu: counters '8' is no number$/],
    ['a flag as a number', riscv({ deferCommands: 1 }), /^RiscvIommu: deferCommands is no boolean$/],
    ['no memory', () => new RiscvIommu({}, {} as never), /^RiscvIommu: memory is no memory$/],
    ['a hook that is none', () => new VtdIommu({}, { memory, respond: 5 } as never), /^VtdIommu: respond is no function$/],
    ['an IOTLB of bigint', () => new Iotlb(64n as never), /^Iotlb: capacity 64 is no number$/],
    ['a property that is none', () => new DeviceNode('a').set('b', 7 as never), /^DeviceNode: value is no text, list or Uint8Array$/],
    ['a machine of nothing', () => new Machine({} as never), /^Machine: memory /],
    ['a path that is none', () => pseries('teleport'), /^path: no path is called 'teleport'/],
  ];
  test.each(cases)('%s', (_, make, message) => {
    expect(make).toThrow(message);
    expect(make).toThrow(/^[^\n]*$/);
  });

  test('a machine over other memory than its target works on', () => {
    const { target } = pseries();
    expect(() => new Machine({ memory: GuestMemory.ofBytes(1 << 16), target })).toThrow(/^Machine: memory is not that of target spapr$/);
  });

  test.each([-1, 0, 11, 64, 12.5 - 12, Number.NaN, 2 ** 32 + 12])('Iotlb.fill with lg2 %s', (lg2) => {
    const iotlb = new Iotlb(64);
    expect(() => iotlb.fill(1, 2, 0, 0x1000, lg2, iotlb.out)).toThrow(/^Iotlb: lg2 .* is not in 12\.\.63$/);
    expect(iotlb.lookup(1, 2, 0, 0x1000, 0)).toBe(-1);
  });
});

describe('an emulated device', () => {
  test.each(
    WRONG.filter((value) => !(value instanceof Uint8Array)).concat([new ArrayBuffer(4), new DataView(new ArrayBuffer(4))] as never),
  )('bytes that are %s', (bytes) => {
    const nic = pseries().machine.emulate(0);
    expect(() => nic.read(0x5000n, bytes as never)).toThrow(/^EmulatedDevice: to is no Uint8Array$/);
    expect(() => nic.write(0x5000n, bytes as never)).toThrow(/^EmulatedDevice: from is no Uint8Array$/);
  });

  test('an address or PASID that is none', () => {
    const nic = pseries().machine.emulate(0);
    for (const iova of [0x5000, '5', undefined, -1n, 1n << 64n])
      expect(() => nic.read(iova as never, new Uint8Array(4))).toThrow(/^EmulatedDevice: iova /);
    for (const pasid of [1n, 0.5, -2, 1 << 20, 'a'])
      expect(() => nic.read(0n, new Uint8Array(4), pasid as never)).toThrow(/^EmulatedDevice: pasid /);
  });

  test('one that was removed, or whose machine was closed, does no DMA', () => {
    const { machine } = pseries();
    const [first, second] = [machine.emulate(0), machine.emulate(8)];
    machine.remove(0);
    expect(() => first.read(0n, new Uint8Array(4))).toThrow(/^EmulatedDevice: endpoint 0x0 was removed$/);
    expect(second.read(0n, new Uint8Array(4))).toBeLessThan(0);
    machine.close();
    expect(() => second.write(0n, new Uint8Array(4))).toThrow(/was removed$/);
    expect(() => second.transfer(0, 0, new Uint8Array(4), 1, -1)).toThrow(/was removed$/);
  });
});

describe('a passed-through device', () => {
  test('RAM without a host address is said to be that, and not to lie outside', () => {
    const { kernel, host } = pseries();
    const memory = GuestMemory.ofBytes(1 << 18);
    const window = { liobn: 0x80000000, start: 0n, pageLg2: 12, pages: 64 };
    const target = new SpaprIommu({ memory, bridges: [{ buid: 1n, endpoints: [0], windows: [window] }] });
    const machine = new Machine({ memory, target, host });
    machine.passThrough(0, kernel.device().path);
    const registers = new HypercallRegisters();
    registers.u64.set([0x80000000n, 0x1000n, 0x3003n], 4);
    expect(target.hypercall(H_PUT_TCE, registers)).not.toBe(0);
    expect(machine.hostError?.message).toMatch(/EFAULT .*guest RAM at 0x3000 has no hostAddress/);
  });

  test.each(['vfio-type1', 'vfio-spapr-tce'])('%s given the node that iommufd wants says which path it wants', (kind) => {
    const kernel = simKernel({ iommus: [kind === 'vfio-type1' ? {} : { tce: {} }] });
    const host = openHost(kind, kernel);
    expect(() => host.openDevice('/dev/vfio/devices/vfio0')).toThrow(/\/dev\/vfio\/GROUP#DEVICE/);
    expect(() => host.openDevice(7 as never)).toThrow(/device path 7 is no string$/);
    expect(() => host.openDevice('/dev/vfio/devices/vfio9')).toThrow(/vfio9: ENOENT .*GROUP#DEVICE/);
    host.close();
    expect(kernel.live()).toMatchObject({ descriptors: 0 });
  });

  test('iommufd: a path that is none, no node, and after closing', () => {
    const kernel = simKernel();
    const host = openHost('iommufd', kernel);
    expect(() => host.openDevice({} as never)).toThrow(/^IommufdHost: device path object is no string$/);
    kernel.nodes.delete('/dev/iommu');
    expect(() => openHost('iommufd', kernel)).toThrow(/open \/dev\/iommu: ENOENT \(.*not loaded\)/);
    host.close();
    expect(() => host.openDevice(kernel.device().path)).toThrow(/^IommufdHost: it is closed$/);
    expect(() => host.createSpace()).toThrow(/^IommufdHost: it is closed$/);
  });
});

test('every host, device and space is disposed of by `using`, in any order, once', () => {
  for (const order of [
    [0, 1, 2],
    [2, 1, 0],
    [1, 0, 2],
  ]) {
    const kernel = simKernel();
    const before = kernel.live();
    const host = openHost('iommufd', kernel);
    const things = [host, host.openDevice(kernel.device().path), host.createSpace()];
    for (const at of order) {
      things[at][Symbol.dispose]();
      things[at][Symbol.dispose]();
    }
    expect(kernel.live()).toEqual({ ...before, descriptors: 0 });
  }
});

test('a failure of a host is a HostError and no misuse', () => {
  const { kernel, machine } = pseries();
  kernel.hooks.fail({ kind: 'VFIO_DEVICE_BIND_IOMMUFD', nth: 1, errno: errno.EPERM });
  expect(() => machine.passThrough(0, kernel.device().path)).toThrow(HostError);
});
