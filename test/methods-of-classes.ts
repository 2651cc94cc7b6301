import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Binder, StoreWatch } from '../src/accel/index.ts';
import { IommufdHost } from '../src/host/iommufd/index.ts';
import { simKernel } from '../src/host/sim/index.ts';
import { TceHost } from '../src/host/vfio-spapr-tce/index.ts';
import { Type1Host } from '../src/host/vfio-type1/index.ts';
import { GuestMemory } from '../src/memory/index.ts';
import { AmdIommu } from '../src/target/amd/index.ts';
import { RiscvIommu } from '../src/target/riscv/index.ts';
import { Smmuv3 } from '../src/target/smmuv3/index.ts';
import { SpaprIommu } from '../src/target/spapr/index.ts';
import { VirtioIommu } from '../src/target/virtio-iommu/index.ts';
import { VtdIommu } from '../src/target/vtd/index.ts';
import { GeneralRegisters, ZpciIommu } from '../src/target/zpci/index.ts';
import { VirtioDevice } from '../src/virtqueue/index.ts';
import {
  DmaEngine,
  FileBackend,
  MemoryBackend,
  StreamBackend,
  VirtioBlock,
  VirtioEntropy,
  VirtioNetwork,
} from '../src/vmm/devices/index.ts';
import { DeviceNode, EmulatedDevice, HypercallDispatcher, Machine } from '../src/vmm/index.ts';
import { FunctionDma, PciBus, PciFunction, PciHost } from '../src/vmm/pci/index.ts';
import { QmpProtocol, QtestProtocol, testMachine } from '../src/vmm/qtest/index.ts';
import { PciVfioDevice } from '../src/vmm/vfio-user/index.ts';
import { VirtioMmio, VirtioPci } from '../src/vmm/virtio/index.ts';

/*
 * Of every class that the package exports: one that is made right, and arguments of the right types for each method that checks them. The methods of
 * hot paths and those that only the library's own parts call check nothing, and stand in `UNCHECKED` with the reason.
 */

export interface Subject {
  readonly make: () => object;
  readonly methods: Readonly<Record<string, readonly unknown[]>>;
}

const memory = GuestMemory.ofBytes(1 << 16);
const bytes = () => new Uint8Array(4);
const observer = { attach: () => 0, changed: () => {}, flush: () => 0 };
const kernel = simKernel({ iommus: [{}, { tce: {} }], devices: [{ name: 'vfio0' }, { name: 'vfio1', iommu: 1 }] });
const device = () => ({ name: 'vfio0' });
const register = { read: [0, 4], write: [0, 4, 0n] };
const endpoint = { addEndpoint: [8], removeEndpoint: [8] };
const target = { observe: [observer], knows: [8], spaceOf: [8], load: [{}] };
const staged = { ...target, spaceOf: [8, 0], stageOf: [8, 0] };
const virtio = () => new VirtioIommu({ memory });
const fn = () => new PciFunction({ vendor: 1, device: 1, classCode: 0 });
const file = () => {
  const path = join(mkdtempSync(join(tmpdir(), 'viommu-disk-')), 'disk');
  writeFileSync(path, new Uint8Array(512));
  return path;
};
const model = { readConfig: [0, bytes()], notify: [0] };
const backend = { read: [0, bytes()], write: [0, bytes()] };
const WINDOW = { liobn: 1, start: 0n, pageLg2: 12, pages: 16 };
const noStream = { write: () => true, on: () => {} };

export const SUBJECTS: Readonly<Record<string, Subject>> = {
  DeviceNode: {
    make: () => new DeviceNode('a'),
    methods: { set: ['a'], delete: ['a'], cells: ['a'], find: ['a'], add: [new DeviceNode('b')] },
  },
  EmulatedDevice: { make: () => new EmulatedDevice(8, virtio(), memory), methods: { read: [0n, bytes(), 0], write: [0n, bytes(), 0] } },
  GuestMemory: {
    make: () => GuestMemory.ofBytes(1 << 16),
    methods: { add: [{}], remove: [0n], replace: [{}], observe: [() => {}], mayDiscard: [0n, 4096] },
  },
  HypercallDispatcher: { make: () => new HypercallDispatcher(), methods: { serve: [[1], () => 0] } },
  Machine: {
    make: () => new Machine({ memory, target: virtio() }),
    methods: {
      ...{ onChange: [() => {}], observe: [{}], load: [{}], collectDirty: [0], emulate: [8], passThrough: [8, 'x'], changePath: ['auto'] },
      remove: [8],
    },
  },
  Binder: {
    make: () => new Binder(new IommufdHost(kernel), memory),
    methods: {
      add: [8, device(), null],
      remove: [8],
      expel: [8],
      block: [8],
      choiceOf: [8, 0],
      attach: [8, null, 0],
      changePath: ['auto'],
      trackDirty: [true],
    },
  },
  StoreWatch: { make: () => new StoreWatch(), methods: { stored: [0n, 8], watch: [0], unwatch: [0], observe: [() => {}] } },
  VirtioDevice: {
    make: () => new VirtioDevice(memory, 0n, 1, 16, { interrupt: () => {}, negotiated: () => {}, reset: () => {} }),
    methods: { setQueue: [0, null], queue: [0], interrupt: [0], load: [{}] },
  },
  IommufdHost: {
    make: () => new IommufdHost(kernel),
    methods: {
      ...{ openDevice: ['x'], share: [{}], reach: [device(), []], createSpace: [{}], hwInfo: [{ id: 1 }, 0] },
      ...{ createPageTable: [{ id: 1 }, { id: 1 }, {}], createStageOne: [{ id: 1 }, { id: 1 }, { bytes: bytes() }, {}] },
      ...{ createVtdInvalidations: [{ id: 1 }, 4], createSmmuInvalidations: [{ id: 1 }, 4], createInvalidations: [{ id: 1 }, 0, 16, 4] },
      ...{ createViommu: [{ id: 1 }, { id: 1 }, 0, bytes()], createVintf: [{ id: 1 }, { id: 1 }], setVfioIoas: [null] },
      ...{ refusesDirtyTracking: [device()], lacksWriteOnly: [device()] },
    },
  },
  TceHost: { make: () => new TceHost(kernel), methods: { createSpace: [{}], reach: [device(), []], share: [{}], openDevice: ['x'] } },
  TceSpace: {
    make: () => new TceHost(kernel).createSpace(),
    methods: {
      createWindow: [{}],
      removeWindow: [{}],
      registerMemory: [0, 1],
      unregisterMemory: [0, 1],
      cover: [[]],
      attach: [device()],
      detach: [device()],
      trackDirty: [true],
    },
  },
  Type1Host: { make: () => new Type1Host(kernel), methods: { createSpace: [{}], reach: [device(), []], openDevice: ['x'] } },
  Type1Space: {
    make: () => new Type1Host(kernel).createSpace(),
    methods: {
      readDirty: [0, 1, { buffer: bytes() }],
      unmapReadingDirty: [0, 1, { buffer: bytes() }],
      cover: [[]],
      attach: [device()],
      detach: [device()],
      trackDirty: [true],
    },
  },
  AmdIommu: { make: () => new AmdIommu({ memory }), methods: { ...register, ...endpoint, ...staged, remap: [8, 0, 0], pageRequest: [{}] } },
  RiscvIommu: {
    make: () => new RiscvIommu({}, { memory }),
    methods: {
      ...{ pasidsOf: [8], directoryOf: [8] },
      ...{ ...register, ...endpoint, ...target, processCommands: [1], request: [0, 8, 0, 0n, 1], storeInterrupt: [8, 0, 0n, 1] },
      ...{ translationRequest: [{}], pageRequest: [{}], invalidationCompletion: [{}], invalidationTimeout: [1] },
    },
  },
  Smmuv3: {
    make: () => new Smmuv3({ memory }),
    methods: { ...register, ...endpoint, ...staged, pasidsOf: [8], translationRequest: [8, 0, 0n, 1], pageRequest: [{}], report: [{}] },
  },
  SpaprIommu: {
    make: () => new SpaprIommu({ memory, bridges: [{ buid: 1n, endpoints: [8], windows: [WINDOW] }] }),
    methods: { ...target, rtas: ['create', new Uint32Array(8), new Uint32Array(8)] },
  },
  VirtioIommu: {
    make: virtio,
    methods: {
      ...{ ...target, addEndpoint: [8, []], readConfig: [0, bytes()], writeConfig: [0, bytes()], notify: [0], negotiate: [0n] },
      ...{ attach: [1, 8, 0], detach: [1, 8], map: [1, 0n, 0xfffn, 0n, 1], unmap: [1, 0n, 0xfffn], probe: [8], confine: [8, []] },
    },
  },
  VtdIommu: {
    make: () => new VtdIommu({}, { memory }),
    methods: {
      ...{ pasidsOf: [8], directoryOf: [8] },
      ...{ ...register, ...endpoint, ...staged, remap: [8, 0, 0], remapIoapic: [8, 0, 0], translationRequest: [{}] },
      ...{ translatedRequest: [8, 0n, 1, 0], pageRequest: [{}], report: [{}], invalidationCompletion: [8, 0], invalidationTimeout: [8] },
    },
  },
  ZpciIommu: {
    make: () => new ZpciIommu({ memory, functions: [{ fid: 8, uid: 1, group: 0, vendor: 1, device: 1 }] } as never),
    methods: {
      ...{ ...target, spaceOf: [8, 0], clp: [bytes()], mpcifc: [new GeneralRegisters(), 1, 0n], stpcifc: [new GeneralRegisters(), 1, 0n] },
      ...{ rpcit: [new GeneralRegisters(), 1, 2], pcilg: [new GeneralRegisters(), 1, 2], pcistg: [new GeneralRegisters(), 1, 2] },
      ...{ pcistb: [new GeneralRegisters(), 1, 2, 0n], configure: [8, true], message: [8, 0], fail: [8, 0, 0n] },
    },
  },
  DmaEngine: { make: () => new DmaEngine({}), methods: { ...register, attach: [{ transfer: () => 0 }] } },
  FileBackend: { make: () => new FileBackend(file()), methods: backend },
  MemoryBackend: { make: () => new MemoryBackend(512), methods: backend },
  StreamBackend: { make: () => new StreamBackend(noStream as never), methods: { connect: [() => {}], send: [bytes()] } },
  VirtioBlock: { make: () => new VirtioBlock(memory, new MemoryBackend(512), () => {}), methods: model },
  VirtioEntropy: { make: () => new VirtioEntropy(memory, () => {}), methods: model },
  VirtioNetwork: {
    make: () => new VirtioNetwork(memory, { connect: () => {}, send: () => {} }, () => {}),
    methods: model,
  },
  FunctionDma: {
    make: () => new FunctionDma(fn(), 8, virtio(), memory),
    methods: { read: [0n, bytes(), 0], write: [0n, bytes(), 0] },
  },
  PciBus: {
    make: () => new PciBus(() => 0),
    methods: { add: [1, 0, fn()], addBridge: [1, 0, fn()], requesterOf: [fn()], find: [8], decode: [0n, true] },
  },
  PciFunction: {
    make: fn,
    methods: {
      ...{ addressOf: [0], placeOf: [0], readConfig: [0, 4], writeConfig: [0, 4, 0], readBar: [0, 0, 4], writeBar: [0, 0, 4, 0n] },
      ...{ signal: [0], setIntx: [true], load: [{}] },
    },
  },
  PciHost: {
    make: () => new PciHost(),
    methods: {
      ...{ add: [8, fn()], functionAt: [8], readEcam: [0, 4], writeEcam: [0, 4, 0n], readPort: [0xcf8, 4], writePort: [0xcf8, 4, 0] },
      ...{ readMemory: [0n, 4], writeMemory: [0n, 4, 0n], readIo: [0, 4], writeIo: [0, 4, 0n] },
    },
  },
  QmpProtocol: { make: () => new QmpProtocol(testMachine('q35', { ramBytes: 1 << 20 })), methods: { answer: ['x'] } },
  QtestProtocol: { make: () => new QtestProtocol(testMachine('q35', { ramBytes: 1 << 20 })), methods: { answer: ['x'] } },
  PciVfioDevice: {
    make: () => new PciVfioDevice(fn()),
    methods: {
      ...{
        sendMessage: [0n, 0],
        trigger: [0, 0],
        setIntx: [true],
        maskIrq: [0, true],
        connected: [{ write: () => {}, trigger: () => true }],
      },
      ...{ readRegion: [7, 0, new DataView(new ArrayBuffer(4))], writeRegion: [7, 0, new DataView(new ArrayBuffer(4))] },
    },
  },
  VirtioMmio: {
    make: () => new VirtioMmio({ type: 4, queues: 1, model: new VirtioEntropy(memory, () => {}) } as never, () => {}),
    methods: { ...register, interrupt: [0] },
  },
  VirtioPci: { make: () => new VirtioPci(new VirtioEntropy(memory, () => {}).description, {}), methods: { interrupt: [0] } },
};

const HOT = 'a hot path: addresses as two int32, page frame numbers and lengths; a check would cost more than the call';
const OWN = "what the library's own parts call: hosts' spaces, paths, and devices behind their own registers";

/** Methods that look at no types, and why: of a class, or (`*`) of whichever. */
export const UNCHECKED: readonly { readonly of: string; readonly methods: readonly string[]; readonly why: string }[] = [
  { of: '*', methods: ['translate', 'transfer'], why: HOT },
  { of: 'TranslatedMemory', methods: ['*'], why: HOT },
  { of: 'CountedMemory', methods: ['*'], why: HOT },
  { of: 'SecondStageMemory', methods: ['*'], why: HOT },
  { of: 'IntervalMap', methods: ['*'], why: HOT },
  { of: 'Iotlb', methods: ['*'], why: HOT },
  { of: 'WriteLog', methods: ['*'], why: HOT },
  { of: 'Chain', methods: ['*'], why: HOT },
  { of: 'CommandQueue', methods: ['*'], why: HOT },
  { of: 'TwoStage', methods: ['*'], why: HOT },
  ...['AmdV1Table', 'ArmTable', 'RiscvTable', 'S390Table', 'TceTable', 'VtdSecondStageTable', 'X86Table'].map((of) => ({
    of,
    methods: ['*'],
    why: HOT,
  })),
  {
    of: 'GuestMemory',
    methods: [
      ...['load64', 'load64BE', 'load32', 'load32BE', 'load16', 'store64', 'store64BE', 'store32', 'store32BE', 'store16', 'loadRun64'],
      ...['storeRun64', 'replaceAlike64', 'compareExchange64', 'read', 'write', 'chunkAt', 'hostPfn', 'nextHostPage', 'holds'],
      ...['registersAt', 'isReadOnly', 'hostRun', 'wrote', 'reached', 'unreached'],
    ],
    why: HOT,
  },
  { of: 'HypercallDispatcher', methods: ['call'], why: HOT },
  { of: 'SpaprIommu', methods: ['hypercall'], why: HOT },
  { of: 'ZpciIommu', methods: ['isMessage'], why: HOT },
  { of: 'Smmuv3', methods: ['translateTranslated'], why: HOT },
  { of: 'Registers', methods: ['*'], why: OWN },
  { of: 'Binder', methods: ['changed', 'directory', 'invalidated', 'answered'], why: OWN },
  { of: 'TceHost', methods: ['open', 'extension', 'keep', 'dropSpace', 'dropGroup'], why: OWN },
  { of: 'Type1Host', methods: ['open', 'extension', 'keep', 'dropSpace', 'dropGroup'], why: OWN },
  ...['TceSpace', 'Type1Space'].map((of) => ({
    of,
    methods: [
      ...['entered', 'coverNow', 'mapNow', 'unmapNow', 'unmapWith', 'take', 'leave', 'lost', 'mapIoctl', 'unmapIoctl', 'fail', 'shared'],
      ...['unshared', 'map', 'unmap', 'copy'],
    ],
    why: OWN,
  })),
];
