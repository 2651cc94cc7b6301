import { describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import type { IommuConfig } from '../../src/host/sim/index.ts';
import type { VfioHost } from '../../src/host/vfio/host.ts';
import type { VfioSpace } from '../../src/host/vfio/space.ts';
import { TceHost } from '../../src/host/vfio-spapr-tce/index.ts';
import { Type1Host } from '../../src/host/vfio-type1/index.ts';
import { READ_WRITE } from '../../src/memory/access.ts';
import { type Answer, RAM_PAGES, run, type Scenario } from './failures.ts';
import { groupPaths } from './sim-fixture.ts';

/**
 * Every call of the VFIO drivers made to fail, the nth for every n, with every errno that drivers/vfio of Linux 7.3 answers.
 */

const documented = [
  errno.ENOTTY,
  errno.EINVAL,
  errno.EFAULT,
  errno.EPERM,
  errno.ENODEV,
  errno.EBUSY,
  errno.EBADF,
  errno.EBADFD,
  errno.ENOMEM,
  errno.ENOSPC,
  errno.EEXIST,
  errno.EOVERFLOW,
  errno.ENXIO,
  errno.ENOENT,
  errno.EACCES,
];

const BASE = 0x100;

/** What any user of the host does; `rest` is what one interface has beyond the others, with a device attached. */
function plain<H extends VfioHost>(
  open: (kernel: Parameters<Scenario>[0]['kernel']) => H,
  rest: (host: H, space: VfioSpace, pfn: number) => Generator<Answer | undefined>,
): Scenario {
  return function* ({ kernel, pfn, opened }) {
    const [firstPath] = groupPaths(kernel);
    const host = open(kernel);
    opened(host);
    yield;
    const device = host.openDevice(firstPath);
    yield;
    const a = host.createSpace() as VfioSpace;
    yield;
    const b = host.createSpace();
    yield;
    yield { result: a.map(BASE, pfn, 4, READ_WRITE), error: a.error };
    yield { result: a.map(BASE + 8, pfn + 4, 1, READ_WRITE), error: a.error };
    yield { result: a.attach(device), error: a.error };
    yield { result: a.map(BASE + 4, pfn + 4, 2, READ_WRITE), error: a.error };
    yield* rest(host, a, pfn);
    yield { result: a.unmap(BASE, 8), error: a.error };
    yield { result: b.map(BASE, pfn, 1, READ_WRITE), error: b.error };
    yield { result: b.attach(device), error: b.error };
    yield { result: b.detach(device), error: b.error };
    yield { result: a.unmap(BASE, 16), error: a.error };
    device.close();
    yield;
    a.close();
    yield;
    b.close();
    yield;
  };
}

const type1 = plain(
  (kernel) => new Type1Host(kernel),
  function* (_host, space) {
    const own = space as ReturnType<Type1Host['createSpace']>;
    const bitmap = own.host.port.allocate(8);
    try {
      own.info();
      yield;
      yield { result: own.startDirtyTracking(), error: own.error };
      yield { result: own.readDirty(BASE, 4, bitmap), error: own.error };
      yield { result: own.unmapReadingDirty(BASE + 4, 2, bitmap), error: own.error };
      yield { result: own.stopDirtyTracking(), error: own.error };
    } finally {
      bitmap.release();
    }
    yield;
  },
);

const tce = (version: 1 | 2) =>
  plain(
    (kernel) => new TceHost(kernel, version),
    function* (_host, space) {
      const own = space as ReturnType<TceHost['createSpace']>;
      yield { result: own.eehState(), error: own.error };
      if (version === 1) return;
      yield { result: own.createWindow({ sizeLg2: 30, levels: 1 }), error: own.error };
      yield { result: own.removeWindow(own.windows[1]), error: own.error };
    },
  );

const machines: readonly [string, Scenario, IommuConfig][] = [
  ['vfio-type1', type1, {}],
  ['vfio-spapr-tce, version 1', tce(1), { tce: {} }],
  ['vfio-spapr-tce, version 2', tce(2), { tce: {} }],
];

/** Calls whose failure changes nothing for anybody: close(2) closes all the same; memory that stays registered serves the next mapping. */
const UNNOTICED = ['close', 'VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY'];

describe.each(machines)('every call that fails: %s', (_name, scenario, config) => {
  const kinds = run(scenario, config, null);

  test(`${kinds.length} calls, each with ${documented.length} errnos`, () => {
    expect(RAM_PAGES).toBeGreaterThan(6);
    let tried = 0;
    for (const [index, kind] of kinds.entries()) {
      if (UNNOTICED.includes(kind)) continue;
      for (const code of documented) {
        run(scenario, config, { nth: index + 1, errno: code });
        tried++;
      }
    }
    expect(tried).toBeGreaterThan(200);
  });
});
