import { statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type InterruptSource, Smmuv3 } from '../../../target/smmuv3/index.ts';
import { type DeviceNode, writeDeviceTree } from '../../../vmm/firmware/device-tree/device-tree.ts';
import { smmuv3Node } from '../../../vmm/firmware/device-tree/smmuv3.ts';
import { countedRegisters, type RegisterCounts, smmuFunction } from '../../../vmm/units/index.ts';
import { PciVfioDevice } from '../../../vmm/vfio-user/index.ts';
import {
  DISK,
  ENDPOINTS,
  GUEST_MODULES,
  type GuestChoices,
  type GuestRecipe,
  kernelCommandLine,
  type RunFiles,
  USERSPACE_MODULES,
} from '../recipe.ts';
import { freePhandle, mapEndpoints, virtMachine } from './virt.ts';

const UNIT_SLOT = 4;
/** Where the stub puts the registers: the beginning of the 32-bit window, which Linux gets less of. */
const REGISTERS = 0x1000_0000;
const WINDOW_TAKEN = 0x100_0000;
/** Configuration space of bus 0 in the virt machine. */
const ECAM = 0x40_1000_0000n;
/** Where guest RAM begins, and things lie in it. */
const RAM_AT = 0x4000_0000;
const KERNEL = 0x4020_0000;
const TREE = 0x4800_0000;
const INITRD = 0x4900_0000;
const STUB = 0x5f00_0000;
/** Writes of whichever vfio-user function reach the ITS as those of device 0. */
const MESSAGE_DEVICE = 0;
/** SPI of INTA# of device 4 (slots take turns), level-triggered. */
const EVENT_WIRE = [0, 3, 4];

/**
 * What runs first, as there is no firmware: gives the register function its BAR and turns memory and bus mastering on, then enters Linux with the
 * device tree's address in x0. The numbers that it loads follow the code: BAR 0's place in ECAM, its value, tree, kernel.
 */
function stub(): Uint8Array {
  const code = [
    0x58000181, // ldr x1, place of BAR 0
    0x580001a2, // ldr x2, its value
    0xb9000022, // str w2, [x1]
    0x528000c2, // mov w2, #6
    0x781f4022, // sturh w2, [x1, #-12]: the command register
    0x58000160, // ldr x0, tree
    0xd2800001, // mov x1, #0
    0xd2800002, // mov x2, #0
    0xd2800003, // mov x3, #0
    0x58000124, // ldr x4, kernel
    0xd61f0080, // br x4
    0xd503201f, // nop: the numbers are aligned to 8
  ];
  const bytes = new DataView(new ArrayBuffer(4 * code.length + 32));
  code.forEach((instruction, i) => {
    bytes.setUint32(4 * i, instruction, true);
  });
  [ECAM + BigInt(UNIT_SLOT << 15) + 0x10n, BigInt(REGISTERS), BigInt(TREE), BigInt(KERNEL)].forEach((number, i) => {
    bytes.setBigUint64(4 * code.length + 8 * i, number, true);
  });
  return new Uint8Array(bytes.buffer);
}

/** Arm SMMUv3 on a virt machine without firmware: a device tree of QEMU's with our node in it. */
export const smmuv3: GuestRecipe = {
  iommu: 'smmuv3',
  summary: 'Arm SMMUv3, first stage; --variant stage2, msi',
  arch: 'aarch64',
  debianArch: 'arm64',
  suite: 'trixie',
  qemuPackage: 'qemu-system-arm',
  modules: GUEST_MODULES,
  taskModules: { rebind: USERSPACE_MODULES },
  variants: ['stage2', 'msi'],
  fault: /arm-smmu-v3 10000000\.iommu:\s+0x00000000dead0000/,
  inUse: /arm-smmu-v3 10000000\.iommu: ias \d+-bit, oas \d+-bit/,
  remapping: null,
  guess: BigInt(REGISTERS),

  tasks: ['reboot', 'rebind'],
  needsModule: false,
  recordable: true,
  build: (choices, deliver, witness) => {
    const { memory } = witness;
    const stage2 = choices.variant === 'stage2';
    const messages = choices.variant === 'msi';
    const send = witness.sending(messages ? deliver : () => device.pulseIntx());
    const message = (address: bigint, data: number) => {
      send(address, data);
      return true;
    };
    const wire = (source: InterruptSource) => {
      if (source === 'event') send(0n, 0);
    };
    const smmu = new Smmuv3({ memory, ...(stage2 && { features: { S1P: 0 } }), ...(messages ? { message } : { interrupt: wire }) });
    for (const stream of ENDPOINTS) smmu.addEndpoint(stream);
    const registers: RegisterCounts = { reads: 0, writes: 0 };
    const fn = smmuFunction(witness.registers(countedRegisters(smmu, registers)));
    // Linux must not place the BAR anew: for it there is no such function, from the stub's writes on.
    const device: PciVfioDevice = new PciVfioDevice(fn, {
      absent: () => fn.addressOf(0) !== null,
      reset: () => witness.reset(() => smmu.reset()),
    });
    witness.machine('smmuv3', BigInt(RAM_AT), ENDPOINTS, { S1P: Number(!stage2), ...(messages && { messages: 1 }) });
    return {
      target: witness.target(smmu),
      functions: [{ name: 'registers', slot: UNIT_SLOT, device, memory }],
      registers,
      // To the ITS: an address that the SMMU translates like any other.
      message: () => false,
      base: () => fn.addressOf(0),
      arguments: (files) => armArguments(choices, files),
    };
  },
};

async function armArguments(choices: GuestChoices, files: RunFiles): Promise<readonly string[]> {
  const { arguments: machine, tree } = await virtMachine('virt,gic-version=3,its=on', ['-cpu', 'cortex-a72'], choices, files);
  describe(tree, choices, statSync(files.initrd).size);
  const place = (name: string, bytes: Uint8Array) => {
    const path = join(files.folder, name);
    writeFileSync(path, bytes);
    return path;
  };
  const load = (path: string, address: number, more = '') => [
    '-device',
    `loader,file=${path},addr=0x${address.toString(16)},force-raw=on${more}`,
  ];
  return [
    ...machine,
    ...load(place('tree.dtb', writeDeviceTree(tree)), TREE),
    ...load(files.initrd, INITRD),
    ...load(files.kernel, KERNEL),
    ...load(place('stub.bin', stub()), STUB, ',cpu-num=0'),
  ];
}

/** Tells the tree of the SMMU, of whom it translates, and of what Linux starts with. */
function describe(tree: DeviceNode, choices: GuestChoices, initrdBytes: number): void {
  const phandle = freePhandle(tree);
  const its = [...tree.all()].find((node) => node.name.startsWith('its@') || node.name.startsWith('msi-controller@'))!;
  const itsHandle = its.cells('phandle')[0]!;
  const event = choices.variant === 'msi' ? { messages: { its: itsHandle, device: MESSAGE_DEVICE } } : { event: EVENT_WIRE };
  tree.add(smmuv3Node({ registers: BigInt(REGISTERS), phandle, ...event }));
  const bus = tree.find('pcie');
  mapEndpoints(bus, phandle);
  bus.set('msi-map', [DISK, itsHandle, MESSAGE_DEVICE, 1]);
  // An entry: PCI address in three cells, the processor's in two, size in two. The second byte of the first cell says which space.
  const ranges = bus.cells('ranges');
  for (let at = 0; at < ranges.length; at += 7) {
    if (ranges[at]! >>> 24 !== 2 || ranges[at + 4] !== REGISTERS) continue;
    ranges[at + 2]! += WINDOW_TAKEN;
    ranges[at + 4]! += WINDOW_TAKEN;
    ranges[at + 6]! -= WINDOW_TAKEN;
  }
  bus.set('ranges', ranges);
  tree
    .find('chosen')
    .set('bootargs', kernelCommandLine('ttyAMA0', choices))
    .set('linux,initrd-start', [0, INITRD])
    .set('linux,initrd-end', [0, INITRD + initrdBytes]);
}
