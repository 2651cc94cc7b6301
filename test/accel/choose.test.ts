import { describe, expect, test } from 'vitest';
import { candidates, choose } from '../../src/accel/choose.ts';
import { type SpaceTraits, waysBetween } from '../../src/accel/matrix.ts';
import { StoreWatch } from '../../src/accel/store-watch.ts';
import { openHost } from '../../src/host/registry.ts';
import { type IommuConfig, simKernel, smmuv3, vtd } from '../../src/host/sim/index.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { Machine } from '../../src/vmm/machine.ts';
import { fence, Guest, invalDdt } from '../target/riscv/guest.ts';
import { ToySpace } from './toy-space.ts';

interface Case {
  readonly announced?: boolean;
  readonly tellsTables?: boolean;
  readonly isWatched?: boolean;
  readonly nesting?: IommuConfig['nesting'];
}

function context({ announced = true, tellsTables = true, isWatched = false, nesting = null }: Case) {
  const kernel = simKernel({ iommus: [{ nesting }], devices: [{ name: 'vfio0' }] });
  const host = openHost('iommufd', kernel);
  const space = Object.assign(new ToySpace('guest'), { announced, tellsTables });
  return { space, memory: GuestMemory.ofBytes(4096), host, device: host.openDevice(kernel.device().path), isWatched };
}

const served = (made: Case, wish?: string) => choose(context(made), wish).choice;
const reasonOf = (made: Case, path: string) => candidates(context(made)).find((candidate) => candidate.path === path)?.reason;

describe('the choice of a path', () => {
  test.each<[string, Case, string]>([
    ['a guest that announces, plain hardware', {}, 'shadow'],
    ['a guest that announces, nesting hardware', { nesting: vtd() }, 'user-owned'],
    ['a guest that does not, watched, plain hardware', { announced: false, isWatched: true }, 'shadow, watched'],
    ['a guest that does not, watched, nesting hardware', { announced: false, isWatched: true, nesting: smmuv3() }, 'user-owned, watched'],
    ['a guest that does not, and is not watched', { announced: false, nesting: vtd() }, 'none'],
    ['a guest that announces is not watched', { isWatched: true }, 'shadow'],
  ])('%s: %3$s', (_, made, path) => {
    expect(served(made).path).toBe(path);
  });

  test('a wish for a path is one for each of its ways to hear of mappings, and for no other path', () => {
    expect(served({ announced: false, isWatched: true, nesting: vtd() }, 'shadow').path).toBe('shadow, watched');
    const { path, refused } = served({ announced: false, isWatched: true }, 'user-owned');
    expect(path).toBe('none');
    expect(refused.find((entry) => entry.path === 'shadow, watched')?.reason).toBe("'user-owned' was asked for");
  });

  test('who is refused is named, fastest first, each with its own reason', () => {
    const { refused } = served({ announced: false, nesting: vtd() });
    expect(refused.map(({ path }) => path)).toEqual([
      'nested-queue',
      'nested',
      'user-owned-queue',
      'user-owned',
      'user-owned, watched',
      'user-owned, on demand',
      'shadow',
      'shadow, watched',
      'shadow, on demand',
    ]);
    for (const name of ['user-owned', 'shadow'])
      expect(refused.find(({ path }) => path === name)?.reason).toBe('toy: its guest does not announce new mappings');
    expect(refused.at(-2)?.reason).toMatch(/TableWatch/);
    expect(refused.at(-1)?.reason).toMatch(/vfio0 has no ATS/);
  });

  test('a space that cannot say where its tables are is not watched', () => {
    expect(reasonOf({ announced: false, isWatched: true, tellsTables: false }, 'shadow, watched')).toMatch(/cannot say which tables/);
    expect(reasonOf({ announced: false, isWatched: true }, 'shadow, watched')).toBeNull();
  });
});

describe('the ways from a target to a host, without a guest', () => {
  const open = (traits: SpaceTraits, nesting: IommuConfig['nesting'], isWatched = false) => {
    const { host, device } = context({ nesting });
    return waysBetween(traits, host, device, isWatched)
      .filter(({ reason }) => reason === null)
      .map(({ path }) => path);
  };
  const tce: SpaceTraits = { name: 'sPAPR TCE', owner: 'target', announced: true, inputBits: 32 };
  const firstStage: SpaceTraits = { name: 'first stage', owner: 'guest', announced: false, tellsTables: true, stageFormat: 'vtd' };

  test('follow from what both sides can', () => {
    expect(open(tce, null)).toEqual(['shadow']);
    expect(open(tce, vtd())).toEqual(['user-owned', 'shadow']);
    expect(open({ ...tce, inputBits: 60 }, vtd())).toEqual(['shadow']);
    expect(open(firstStage, vtd())).toEqual(['nested']);
    expect(open(firstStage, smmuv3())).toEqual([]);
    expect(open(firstStage, vtd(), true)).toEqual(['nested', 'user-owned, watched', 'shadow, watched']);
  });

  test('a way that is closed says why', () => {
    const { host, device } = context({ nesting: smmuv3() });
    const nested = waysBetween(firstStage, host, device).find(({ path }) => path === 'nested');
    expect(nested?.reason).toBe("the guest's first stage is vtd's, the hardware walks smmuv3's");
  });
});

describe('a RISC-V guest, which need not announce', () => {
  const made = (watch?: StoreWatch) => {
    const kernel = simKernel({ iommus: [{}], devices: [{ name: 'vfio0' }] });
    const ram = kernel.allocate(1024 * 4096);
    const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
    const guest = new Guest({}, 1024, {}, memory);
    guest.iommu.addEndpoint(8);
    const host = openHost('vfio-type1', kernel);
    const machine = new Machine({ memory, target: guest.iommu, host, ...(watch && { watch }) });
    guest.start();
    const { path, group, name } = kernel.devices[0];
    machine.passThrough(8, host.kind === 'iommufd' ? path : `/dev/vfio/${group.number}#${name}`);
    guest.setContext(8, { first: { mode: 8, root: guest.table('sv39').root, pscid: 1 } });
    guest.command(invalDdt(8), fence());
    return machine.state.endpoints[8];
  };

  test('its passed-through device is blocked, and the machine says by whom and why', () => {
    const { path, space, refused } = made();
    expect([path, space]).toEqual(['blocked', null]);
    expect(refused.find((entry) => entry.path === 'shadow')?.reason).toBe('PSCID 1 (sv39): its guest does not announce new mappings');
    expect(refused.find((entry) => entry.path === 'shadow, watched')?.reason).toMatch(/TableWatch/);
  });

  test('with a watch it is shadowed', () => {
    expect(made(new StoreWatch()).path).toBe('shadow, watched');
  });
});
