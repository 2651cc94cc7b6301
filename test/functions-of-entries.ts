import { simKernel } from '../src/host/sim/index.ts';
import { GuestMemory } from '../src/memory/index.ts';
import { DeviceNode } from '../src/vmm/index.ts';

/* Of every function that the package's entries export, arguments of the right types; as test/methods-of-classes.ts for methods. */

const bytes = new Uint8Array(4);
const node = new DeviceNode('a');
const place = { bar: 0, offset: 0 };
const message = [{}, 8, 0xfee0_0000n, 0, () => {}];

export const FUNCTIONS: Readonly<Record<string, readonly unknown[]>> = {
  ...{ errnoName: [1], faultName: [-1], faultNumber: [-1], faultSource: [-1], statusName: [0] },
  ...{ openHost: ['iommufd', simKernel()], recordTo: [{}, { write: () => {} }], createTable: ['x86', GuestMemory.ofBytes(4096), {}] },
  ...{ dmarTable: [{}], iortTable: [{}], ivrsTable: [{}], viotTable: [{}], mapStreams: [node, 1, []], smmuv3Node: [{}] },
  ...{ readDeviceTree: [bytes], writeDeviceTree: [node] },
  ...{ candidates: [{}], choose: [{}, 'auto'], waysBetween: [{}, {}, {}, false] },
  ...{ amdGuest: [[]], smmuv3Stage1: [0n, 0n], vtdStage1: [{}] },
  ...{ amd: [{}], simKernel: [{}], smmuv3: [{}], vtd: [{}], riscvCapabilities: [{}], capabilities: [{}], ccdfOf: [{}] },
  ...{
    ats: [32],
    ecamBytes: [1],
    msi: [1, false],
    integratedEndpoint: [false],
    msix: [1, place, place],
    powerManagement: [false],
    pasid: [20],
    pri: [32],
    requesterId: [0, 1, 0],
    vendor: [[], 4],
  },
  ...{ serveQtest: [{}, {}], testMachine: ['q35', { ramBytes: 1 << 20 }] },
  ...{ amdFunction: [{}, () => {}], amdMessage: message, amdRegisterFunction: [{}], vtdFunction: [{}, {}], vtdMessage: message },
  ...{ countedRegisters: [{}, {}], riscvFunction: [{}], smmuFunction: [{}, 0x2_0000], isX86Message: [0n], x86Message: [{}] },
};

/** Functions that look at no types, and why. */
export const UNCHECKED_FUNCTIONS: Readonly<Record<string, string>> = {
  ...Object.fromEntries(
    ['hiOf', 'loOf', 'pfnOf', 'addressOfPfn', 'join'].map((name) => [name, 'conversions of addresses that were checked']),
  ),
  ...Object.fromEntries(['joinHiLo', 'hiOfPfn', 'loOfPfn', 'pfnOfHiLo'].map((name) => [name, 'the same, on hot paths'])),
  ...Object.fromEntries(
    ['faultCode', 'faultKind', 'faultLevel', 'targetFault'].map((name) => [name, 'codes of faults, as walkers make them']),
  ),
  enumerateTwoStage: "what targets' address spaces are made of",
};
