import { WRITE } from '../../memory/access.ts';
import { hiOf, joinHiLo, loOf } from '../../memory/address.ts';
import { GuestMemory } from '../../memory/guest-memory.ts';
import { NO_PASID } from '../../target/target.ts';
import { type BlockBackend, DmaEngine, VirtioBlock } from '../../vmm/devices/index.ts';
import { FunctionDma } from '../../vmm/pci/index.ts';
import { TranslatedMemory } from '../../vmm/translated-memory.ts';
import { PciVfioDevice } from '../../vmm/vfio-user/index.ts';
import { VirtioPci } from '../../vmm/virtio/index.ts';
import { DISK, DISK_SLOT, ENGINE, ENGINE_SLOT, type GuestFunction, type GuestUnit } from './recipe.ts';
import type { Deliver } from './record/witness.ts';

/** What the devices did, for the report. */
export interface EndpointReport {
  readonly disk: VirtioBlock['counts'] & { readonly kicks: number };
  readonly diskDma: TranslatedMemory['counts'];
  readonly interrupts: { readonly sent: number; readonly delivered: number };
}

/** The devices behind the guest's IOMMU: a disk and a DMA engine. */
export class Endpoints {
  readonly functions: readonly GuestFunction[];
  readonly #unit: GuestUnit;
  readonly #disk: VirtioBlock;
  readonly #diskMemory: TranslatedMemory;
  readonly #transport: VirtioPci;
  readonly #diskDevice: PciVfioDevice;
  readonly #interrupts = { sent: 0, delivered: 0 };

  constructor(unit: GuestUnit, backend: BlockBackend) {
    this.#unit = unit;
    const diskRam = new GuestMemory([]);
    const engineRam = new GuestMemory([]);
    this.#diskMemory = new TranslatedMemory(DISK, unit.target, diskRam, () => this.#transport.fn.busMaster);
    this.#disk = new VirtioBlock(this.#diskMemory, backend, (source) => this.#transport.interrupt(source));
    this.#transport = new VirtioPci(this.#disk.description, {
      sendMessage: (address, data) => this.#message(DISK, address, data),
      setIntx: (level) => this.#diskDevice.setIntx(level),
    });
    this.#diskDevice = new PciVfioDevice(this.#transport.fn, { hideMsix: true, reset: () => this.#transport.reset() });
    const engine = new DmaEngine({ sendMessage: (address, data) => this.#message(ENGINE, address, data) });
    engine.attach(new FunctionDma(engine.fn, ENGINE, unit.target, engineRam));
    const engineDevice = new PciVfioDevice(engine.fn, { hideMsix: true, reset: () => engine.reset() });
    this.functions = [
      { name: 'disk', slot: DISK_SLOT, device: this.#diskDevice, memory: diskRam },
      { name: 'engine', slot: ENGINE_SLOT, device: engineDevice, memory: engineRam },
    ];
  }

  /** To the guest's interrupt controllers, as the disk's write: QEMU takes writes of functions with bus mastering only. */
  readonly deliver: Deliver = (address, data) => {
    this.#diskDevice.sendMessage(address, data);
  };

  #message(source: number, address: bigint, data: number): void {
    this.#interrupts.sent++;
    const deliver: Deliver = (to, what) => {
      this.#interrupts.delivered++;
      this.deliver(to, what);
    };
    if (this.#unit.message(source, address, data, deliver)) return;
    const { target } = this.#unit;
    const lg2 = target.translate(source, NO_PASID, hiOf(address), loOf(address), WRITE);
    if (lg2 >= 0) deliver(joinHiLo(target.translated[1]!, target.translated[0]!), data);
  }

  get report(): EndpointReport {
    return {
      disk: { ...this.#disk.counts, kicks: this.#transport.kicks },
      diskDma: { ...this.#diskMemory.counts },
      interrupts: { ...this.#interrupts },
    };
  }
}
