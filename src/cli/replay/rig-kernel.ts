import { existsSync, openSync, readdirSync, readFileSync, readlinkSync, writeFileSync, writeSync } from 'node:fs';
import { basename } from 'node:path';
import { HostError } from '../../host/errno.ts';
import { openKernelPort } from '../../host/kernel/index.ts';
import type { Port } from '../../host/port.ts';
import { openHost } from '../../host/registry.ts';
import { ConditionError } from '../command.ts';
import type { DmaEngine, Rig } from './rig.ts';

const SYSFS = '/sys/bus/pci/devices';

/** QEMU's iommu-testdev: writes a pattern anywhere, and knows whether its bus let it (docs/specs/iommu-testdev.rst). */
const TESTDEV = '0x1b36:0x0005';
/** Its registers in BAR 0, as indices of 32-bit words. */
const TRIGGER = 0;
const ADDRESS = 1;
const LENGTH = 3;
const RESULT = 4;
const DOORBELL = 5;
const ATTRIBUTES = 6;
const EXPECTED = 7;
const BAR_BYTES = 4096;
const NON_SECURE = 0b1010;
const RESULT_REFUSED = 0xdead_0002;
const PATTERN = 0x1234_5678;

/** Command register of PCI configuration space: memory space and bus mastering. */
const COMMAND = 4;
const COMMAND_MEMORY_AND_MASTER = 6;

/** The devices do every how many-th recorded DMA: an access to a device takes far longer than a mapping. */
const STRIDE = 4;

/** The kernel of this machine, with whatever of its devices can be told to do DMA. @throws ConditionError that says what is missing. */
export async function kernelRig(hostKind: string, devices: number): Promise<Rig> {
  const port = await openKernelPort().catch((error: Error) => {
    throw new ConditionError(error.message);
  });
  const functions = testDevices().slice(0, devices);
  if (functions.length === 0)
    throw new ConditionError(
      "the kernel's IOMMU wants a device that does DMA when told to, QEMU's iommu-testdev: `npm run test:kernel` boots a machine that has one",
    );
  const host = openHost(hostKind, port);
  return {
    port,
    host,
    stride: STRIDE,
    devices: functions.map((address) => ({ path: nodeOf(hostKind, address), engine: new Testdev(port, address) })),
    close: () => host.close(),
  };
}

function testDevices(): string[] {
  if (!existsSync(SYSFS)) return [];
  const id = (address: string) => ['vendor', 'device'].map((name) => readFileSync(`${SYSFS}/${address}/${name}`, 'utf8').trim()).join(':');
  return readdirSync(SYSFS).filter((address) => id(address) === TESTDEV);
}

/** Gives the function to vfio-pci and names it as the interface does. */
function nodeOf(hostKind: string, address: string): string {
  writeFileSync(`${SYSFS}/${address}/driver_override`, 'vfio-pci');
  if (!existsSync(`${SYSFS}/${address}/driver`)) writeFileSync('/sys/bus/pci/drivers_probe', address);
  if (!existsSync(`${SYSFS}/${address}/vfio-dev`))
    throw new ConditionError(`${address} has another driver than vfio-pci: unbind it, /sys/bus/pci/devices/${address}/driver/unbind`);
  if (hostKind === 'iommufd') return `/dev/vfio/devices/${readdirSync(`${SYSFS}/${address}/vfio-dev`)[0]}`;
  return `/dev/vfio/${basename(readlinkSync(`${SYSFS}/${address}/iommu_group`))}#${address}`;
}

/** Registers and configuration space are reached through sysfs: VFIO's own file is the host driver's. */
class Testdev implements DmaEngine {
  readonly read = null;
  readonly #port: Port;
  readonly #directory: string;
  #config = -1;
  #registers: Uint32Array = new Uint32Array(0);

  constructor(port: Port, address: string) {
    this.#port = port;
    this.#directory = `${SYSFS}/${address}`;
  }

  #open(): void {
    const fd = this.#port.open(`${this.#directory}/resource0`);
    const bar = fd < 0 ? fd : this.#port.mmap(fd, BAR_BYTES, 0n);
    if (typeof bar === 'number') throw new HostError(`mmap ${this.#directory}/resource0`, bar);
    this.#registers = new Uint32Array(bar.buffer);
    this.#config = openSync(`${this.#directory}/config`, 'r+');
  }

  write(iova: bigint, from: Uint8Array): boolean {
    if (this.#config < 0) this.#open();
    // VFIO switches bus mastering off whenever it resets the device.
    writeSync(this.#config, Uint8Array.of(COMMAND_MEMORY_AND_MASTER, 0), 0, 2, COMMAND);
    const view = new DataView(from.buffer, from.byteOffset, from.byteLength);
    for (let at = 0; at + 4 <= from.length; at += 4) view.setUint32(at, PATTERN, true);
    const registers = this.#registers;
    registers[ADDRESS] = Number(iova & 0xffff_ffffn);
    registers[ADDRESS + 1] = Number(iova >> 32n);
    registers[LENGTH] = from.length;
    registers[ATTRIBUTES] = NON_SECURE;
    // Where it looks for what it wrote, by an address that a process does not know.
    registers[EXPECTED] = 0;
    registers[EXPECTED + 1] = 0;
    registers[DOORBELL] = 1;
    // Atomics: a plain read whose value nobody uses is optimised away.
    Atomics.load(registers, TRIGGER);
    return Atomics.load(registers, RESULT) !== RESULT_REFUSED;
  }
}
