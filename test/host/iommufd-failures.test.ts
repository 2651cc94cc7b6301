import { describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import {
  amdGuest,
  type Invalidations,
  type IommufdDevice,
  IommufdHost,
  type KernelPageTable,
  type StageOne,
  smmuv3Stage1,
  vtdStage1,
} from '../../src/host/iommufd/index.ts';
import { amd, type IommuConfig, smmuv3, vtd } from '../../src/host/sim/index.ts';
import { READ_WRITE } from '../../src/memory/access.ts';
import { type Answer, RAM_PAGES, run, type Scenario, type Start } from './failures.ts';

/**
 * Every call of the driver made to fail, the nth for every n, with every errno that include/uapi/linux/iommufd.h and the
 * kernel's iommufd documents: nothing of the kernel's is lost, what was asked for has not happened, and the error says what.
 */

const documented = [
  errno.ENOTTY,
  errno.E2BIG,
  errno.EOPNOTSUPP,
  errno.EINVAL,
  errno.ENOENT,
  errno.ENOMEM,
  errno.EOVERFLOW,
  errno.EEXIST,
  errno.EBUSY,
  errno.EADDRINUSE,
  errno.EFAULT,
  errno.ENOSPC,
  errno.EMSGSIZE,
  errno.EPERM,
  errno.EIO,
  errno.ENODEV,
];

const BASE = 0x100;

/** What any user of the host does. */
function* plain({ kernel, pfn, opened }: Start): Generator<Answer | undefined> {
  const host = new IommufdHost(kernel);
  opened(host);
  yield;
  const first = host.openDevice('/dev/vfio/devices/vfio0');
  yield;
  const second = host.openDevice('/dev/vfio/devices/vfio1');
  yield;
  const a = host.createSpace();
  yield;
  const b = host.createSpace({ apertures: [{ first: BASE, last: BASE + 0xff }], granuleLg2: 12 });
  yield;
  yield { result: a.map(BASE, pfn, 4, READ_WRITE), error: a.error };
  yield { result: a.attach(first), error: a.error };
  yield { result: a.map(BASE + 4, pfn + 4, 2, READ_WRITE), error: a.error };
  yield { result: b.copy(a, BASE + 1, 2, READ_WRITE), error: b.error };
  yield { result: b.attach(first), error: b.error };
  yield { result: b.attach(second), error: b.error };
  b.apertures();
  yield;
  yield { result: b.unmap(BASE + 1, 2), error: b.error };
  yield { result: b.detach(second), error: b.error };
  second.close();
  yield;
  yield { result: b.detach(first), error: b.error };
  a.close();
  yield;
  b.close();
  yield;
}

interface Machine {
  readonly host: IommufdHost;
  readonly device: IommufdDevice;
}

/** The rest of the interface; `rest` is what one kind of hardware has beyond the others, and its first stage. */
function nested(rest: (machine: Machine, parent: KernelPageTable) => Generator<Answer | undefined, StageOne>): Scenario {
  return function* ({ kernel, pfn, opened }) {
    const host = new IommufdHost(kernel);
    opened(host);
    yield;
    const device = host.openDevice('/dev/vfio/devices/vfio0');
    yield;
    const space = host.createSpace();
    yield;
    yield { result: space.map(0, pfn, RAM_PAGES, READ_WRITE), error: space.error };
    host.hwInfo(device);
    yield;
    const parent = host.createPageTable(device, space, { nestParent: true });
    yield;
    const dirty = host.createPageTable(device, space, { dirtyTracking: true });
    yield;
    dirty.setDirtyTracking(true);
    yield;
    dirty.readDirty(0, RAM_PAGES, () => {});
    yield;
    yield { result: dirty.attach(device), error: dirty.error };
    host.setVfioIoas(space);
    yield;
    expect(host.vfioIoas).toBe(space.id);
    yield;
    const stage = yield* rest({ host, device }, parent);
    yield { result: stage.attach(device), error: stage.error };
    dirty.close();
    yield;
    host.setVfioIoas(null);
    yield;
  };
}

function flush(batch: Invalidations): Answer {
  const result = batch.flush();
  const { error } = batch;
  batch.dispose();
  return { result, error };
}

const onVtd = nested(function* ({ host, device }, parent) {
  const faults = host.createFaultQueue();
  yield;
  faults.read();
  yield;
  faults.wait(0);
  yield;
  const stage = host.createStageOne(device, parent, vtdStage1({ root: 0n, addressWidth: 48 }), { faults });
  yield;
  const batch = host.createVtdInvalidations(stage);
  batch.addAll();
  yield flush(batch);
  return stage;
});

const onSmmu = nested(function* ({ host, device }, parent) {
  const answer = new Uint8Array(16);
  const viommu = host.createViommu(device, parent, 2, answer);
  yield;
  const where = new DataView(answer.buffer);
  viommu.mapPage(where.getBigUint64(0, true), Number(where.getBigUint64(8, true)));
  yield;
  viommu.addDevice(device, 7n);
  yield;
  const events = viommu.createEventQueue(1, 32, 4);
  yield;
  events.read();
  yield;
  const queue = viommu.createHardwareQueue(1, 0, 0x1000n, 256);
  yield;
  queue.close();
  yield;
  const stage = host.createStageOne(device, viommu, smmuv3Stage1(1n, 0n));
  yield;
  const batch = host.createSmmuInvalidations(viommu);
  batch.addCommand(0x10, 0, 0, 0);
  yield flush(batch);
  return stage;
});

const onAmd = nested(function* ({ host, device }, parent) {
  const viommu = host.createViommu(device, parent, 1);
  yield;
  const stage = host.createStageOne(device, viommu, amdGuest([1n, 0n, 0n, 0n]));
  yield;
  return stage;
});

const machines: readonly [string, Scenario, IommuConfig][] = [
  ['a plain user', plain, {}],
  ['VT-d', onVtd, { nesting: vtd(), dirtyTracking: true }],
  ['SMMUv3', onSmmu, { nesting: smmuv3({ tegra241: {} }), dirtyTracking: true }],
  ['AMD', onAmd, { nesting: amd(), dirtyTracking: true }],
];

/** Does what it does even when it reports an error (close(2)), so that nobody has to hear of it. */
const NEVER_FAIL = 'close';

describe.each(machines)('every call that fails: %s', (_name, scenario, config) => {
  const kinds = run(scenario, config, null);

  test(`${kinds.length} calls, each with ${documented.length} errnos`, () => {
    let tried = 0;
    for (const [index, kind] of kinds.entries()) {
      if (kind === NEVER_FAIL) continue;
      for (const code of documented) {
        run(scenario, config, { nth: index + 1, errno: code });
        tried++;
      }
    }
    expect(tried).toBeGreaterThan(200);
  });
});
