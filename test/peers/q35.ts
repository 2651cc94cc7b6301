import { bdf, PciFunction, portConfig } from './pci.ts';
import { type Address, Qtest } from './qtest.ts';
import { DATA, RAM_BYTES, STRUCTURES } from './table-programs.ts';
import { type DmaResult, Edu, IommuTestdev } from './testdev.ts';

/** Requester IDs of the two devices of the machine. */
export const TESTDEV = bdf(0, 4, 0);
export const EDU = bdf(0, 5, 0);

const BOUNCE = STRUCTURES - 0x1000;

/** What a DMA came to. */
export interface PeerAnswer {
  readonly done: boolean;
  /** It reached the expected address. False as well when there is none. */
  readonly landed: boolean;
  /** Reason of the recorded fault in the IOMMU's own numbers, 0 when there is none. */
  readonly fault: number;
}

/** What the machine needs of an IOMMU to do DMA through it. */
export interface PeerIommu {
  /** Forgets all that it has cached. */
  invalidate(): void;
  /** Translation on or off for both devices. */
  enable(on: boolean): void;
  /** Takes the fault that was recorded since the last call: its reason, or 0. */
  fault(): Promise<number>;
}

/** A PC with an IOMMU and two devices behind it: one that writes, one that reads. */
export class Q35 {
  readonly qemu: Qtest;
  readonly #testdev: IommuTestdev;
  readonly #edu: Edu;

  static async start(iommu: string): Promise<Q35> {
    const devices = ['-device', 'iommu-testdev,addr=4.0', '-device', 'edu,addr=5.0,dma_mask=0xffffffffffffffff'];
    const qemu = await Qtest.start('x86_64', ['-machine', 'q35', '-m', `${RAM_BYTES >> 20}M`, '-device', iommu, ...devices]);
    const config = portConfig(qemu);
    const testdev = new IommuTestdev(qemu, 0xe000_0000);
    const edu = new Edu(qemu, 0xe010_0000);
    await testdev.setUp(await PciFunction.find(config, TESTDEV));
    await edu.setUp(await PciFunction.find(config, EDU));
    return new Q35(qemu, testdev, edu);
  }

  private constructor(qemu: Qtest, testdev: IommuTestdev, edu: Edu) {
    this.qemu = qemu;
    this.#testdev = testdev;
    this.#edu = edu;
  }

  dispose(): Promise<void> {
    return this.qemu.dispose();
  }

  /** A device writes four bytes to `iova`; `expected`: where they should land. */
  async write(iommu: PeerIommu, iova: bigint, expected: Address | null): Promise<PeerAnswer> {
    const look = expected ?? DATA;
    iommu.invalidate();
    this.qemu.writel(look, 0);
    const result: DmaResult = await this.#testdev.write(iova, look);
    return { done: result !== 'refused', landed: expected !== null && result === 'done', fault: await iommu.fault() };
  }

  /** A device reads eight bytes from `iova`; `expected`: where they should come from. */
  async read(iommu: PeerIommu, iova: bigint, expected: Address | null): Promise<PeerAnswer> {
    const tag = BigInt.asUintN(64, iova ^ 0x5a5a_1234_a5a5_9876n);
    iommu.invalidate();
    if (expected !== null) this.qemu.writeq(expected, tag);
    await this.#edu.fetch(iova, 8);
    const fault = await iommu.fault();
    if (fault !== 0) return { done: false, landed: false, fault };
    // What edu holds comes back past the IOMMU.
    iommu.enable(false);
    await this.#edu.store(BOUNCE, 8);
    iommu.enable(true);
    return { done: true, landed: expected !== null && (await this.qemu.readq(BOUNCE)) === tag, fault };
  }
}
