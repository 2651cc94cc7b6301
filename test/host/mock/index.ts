import type { IommuConfig } from '../../../src/host/sim/iommu.ts';
import { iommufd } from '../../../src/host/sim/iommufd/index.ts';
import { type SimInterface, SimKernel, type SimMachine } from '../../../src/host/sim/kernel.ts';
import { vfio } from '../../../src/host/sim/vfio/index.ts';
import { MockBus } from './bus.ts';
import { MOCK_FORMAT, MockCache, mockNesting } from './nesting.ts';
import { testCommand } from './test-command.ts';
import { SELFTEST } from './types.ts';

const PASID_LG2 = 20;

/** The simulated kernel with the mock IOMMU of the kernel's selftests, whose devices IOMMU_TEST_CMD makes; `machine`: what there is beside it. */
export function simKernelWithMock(machine: SimMachine = {}): SimKernel {
  const caches = new WeakMap<object, MockCache>();
  const cacheOf = (device: object) => {
    const known = caches.get(device) ?? new MockCache(SELFTEST.deviceCache);
    caches.set(device, known);
    return known;
  };
  const mock: IommuConfig = {
    ...MOCK_FORMAT,
    reserved: [],
    dirtyTracking: true,
    pasidLog2: PASID_LG2,
    nesting: mockNesting(cacheOf),
  };
  const { iommus = [{}] } = machine;
  const selftest: SimInterface = (kernel) => iommufd(kernel, [testCommand(new MockBus(kernel, kernel.iommus[iommus.length], cacheOf))]);
  return new SimKernel({ ...machine, iommus: [...iommus, mock] }, [selftest, vfio]);
}
