import type { QueueSetup } from '../../src/target/virtio-iommu/index.ts';
import { bdf, PciFunction, portConfig } from './pci.ts';
import { Qtest } from './qtest.ts';
import { Edu, IommuTestdev } from './testdev.ts';

/** struct virtio_pci_common_cfg (virtio 1.4, 4.1.4.3), at the start of BAR4 as QEMU lays it out. */
const DEVICE_FEATURE_SELECT = 0x00;
const DEVICE_FEATURE = 0x04;
const DRIVER_FEATURE_SELECT = 0x08;
const DRIVER_FEATURE = 0x0c;
const DEVICE_STATUS = 0x14;
const QUEUE_SELECT = 0x16;
const QUEUE_SIZE = 0x18;
const QUEUE_ENABLE = 0x1c;
const QUEUE_DESC = 0x20;
const QUEUE_DRIVER = 0x28;
const QUEUE_DEVICE = 0x30;
const DEVICE_CONFIG = 0x2000;
const NOTIFY = 0x3000;
const NOTIFY_MULTIPLIER = 4;

const BAR = 0xe000_0000;
const WRITER_BAR = 0xe010_0000;
const EDU_BAR = 0xe020_0000;

/** QEMU's virtio-iommu-pci on q35 with two devices behind it, whose requester IDs are the endpoints: 1.0 writes, 2.0 reads and writes. */
export class VirtioIommuPci {
  readonly qemu: Qtest;
  /** Endpoint 8. */
  readonly writer: IommuTestdev;
  /** Endpoint 16. */
  readonly edu: Edu;

  static async start(options: string): Promise<VirtioIommuPci> {
    const devices = ['-device', 'iommu-testdev,addr=1.0', '-device', 'edu,addr=2.0,dma_mask=0xffffffffffffffff'];
    const machine = ['-machine', 'q35', '-m', '256M', '-device', `virtio-iommu-pci,addr=3.0${options}`, ...devices];
    const device = new VirtioIommuPci(await Qtest.start('x86_64', machine));
    await device.#setUp();
    return device;
  }

  private constructor(qemu: Qtest) {
    this.qemu = qemu;
    this.writer = new IommuTestdev(qemu, WRITER_BAR);
    this.edu = new Edu(qemu, EDU_BAR);
  }

  async #setUp(): Promise<void> {
    const config = portConfig(this.qemu);
    const fn = await PciFunction.find(config, bdf(0, 3, 0));
    await fn.mapBar(4, BAR);
    await fn.enable();
    await this.writer.setUp(await PciFunction.find(config, bdf(0, 1, 0)));
    await this.edu.setUp(await PciFunction.find(config, bdf(0, 2, 0)));
  }

  async offeredFeatures(): Promise<bigint> {
    const halves = [1, 0].map((half) => {
      this.qemu.writel(BAR + DEVICE_FEATURE_SELECT, half);
      return this.qemu.readl(BAR + DEVICE_FEATURE);
    });
    const [high, low] = await Promise.all(halves);
    return (BigInt(high) << 32n) | BigInt(low);
  }

  status(): Promise<number> {
    return this.qemu.readb(BAR + DEVICE_STATUS);
  }
  setStatus(value: number): void {
    this.qemu.writeb(BAR + DEVICE_STATUS, value);
  }

  setFeatures(features: bigint): void {
    for (const half of [0, 1]) {
      this.qemu.writel(BAR + DRIVER_FEATURE_SELECT, half);
      this.qemu.writel(BAR + DRIVER_FEATURE, Number((features >> BigInt(32 * half)) & 0xffff_ffffn));
    }
  }

  setQueue(index: number, { size, descriptors, driver, device }: QueueSetup): void {
    this.qemu.writew(BAR + QUEUE_SELECT, index);
    this.qemu.writew(BAR + QUEUE_SIZE, size);
    [QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE].forEach((register, i) => {
      const address = [descriptors, driver, device][i];
      this.qemu.writel(BAR + register, Number(address & 0xffff_ffffn));
      this.qemu.writel(BAR + register + 4, Number(address >> 32n));
    });
    this.qemu.writew(BAR + QUEUE_ENABLE, 1);
  }

  readConfig(bytes: number): Promise<Uint8Array> {
    return this.qemu.read(BAR + DEVICE_CONFIG, bytes);
  }
  writeConfig(offset: number, value: number): void {
    this.qemu.writeb(BAR + DEVICE_CONFIG + offset, value);
  }

  notify(queue: number): void {
    this.qemu.writew(BAR + NOTIFY + NOTIFY_MULTIPLIER * queue, queue);
  }
}
