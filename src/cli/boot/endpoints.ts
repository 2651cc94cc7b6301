import { WRITE } from '../../memory/access.ts';
import { hiOf, joinHiLo, loOf } from '../../memory/address.ts';
import { GuestMemory } from '../../memory/guest-memory.ts';
import { NO_PASID } from '../../target/target.ts';
import type { QueueMemory } from '../../virtqueue/index.ts';
import { type BlockBackend, DmaEngine, VirtioBlock, VirtioEntropy, VirtioNetwork } from '../../vmm/devices/index.ts';
import { FunctionDma } from '../../vmm/pci/index.ts';
import { TranslatedMemory } from '../../vmm/translated-memory.ts';
import { PciVfioDevice } from '../../vmm/vfio-user/index.ts';
import { type VirtioDescription, VirtioPci } from '../../vmm/virtio/index.ts';
import { EchoNetwork } from './echo-network.ts';
import { DISK, DISK_SLOT, ENGINE, ENGINE_SLOT, ENTROPY_SLOT, type GuestFunction, type GuestUnit, NETWORK_SLOT } from './recipe.ts';
import type { Deliver } from './record/witness.ts';

/** What the devices did, for the report. */
export interface EndpointReport {
  readonly disk: VirtioBlock['counts'] & { readonly kicks: number };
  readonly diskDma: TranslatedMemory['counts'];
  readonly interrupts: { readonly sent: number; readonly delivered: number };
  /** null: the guest has none. */
  readonly network: (VirtioNetwork['counts'] & { readonly echoes: number; readonly entropyBytes: number }) | null;
}

/** The devices behind the guest's IOMMU: a disk and a DMA engine; a network and an entropy device if wanted. */
export class Endpoints {
  readonly functions: readonly GuestFunction[];
  readonly #unit: GuestUnit;
  readonly #disk: VirtioBlock;
  readonly #diskMemory: TranslatedMemory;
  readonly #transport: VirtioPci;
  readonly #diskDevice: PciVfioDevice;
  readonly #interrupts = { sent: 0, delivered: 0 };

  readonly #wire = new EchoNetwork();
  #network: VirtioNetwork | null = null;
  #entropy: VirtioEntropy | null = null;

  constructor(unit: GuestUnit, backend: BlockBackend, networked: boolean) {
    this.#unit = unit;
    const diskRam = new GuestMemory([]);
    const engineRam = new GuestMemory([]);
    this.#diskMemory = new TranslatedMemory(DISK, unit.target, diskRam, () => this.#transport.fn.busMaster);
    this.#disk = new VirtioBlock(this.#diskMemory, backend, (source) => this.#transport.interrupt(source));
    this.#transport = new VirtioPci(this.#disk.description, {
      sendMessage: (address, data) => this.#message(DISK, address, data),
      setIntx: (level) => this.#diskDevice.setIntx(level),
    });
    this.#diskDevice = new PciVfioDevice(this.#transport.fn, { hideMsix: true });
    const engine = new DmaEngine({ sendMessage: (address, data) => this.#message(ENGINE, address, data) });
    engine.attach(new FunctionDma(engine.fn, ENGINE, unit.target, engineRam));
    const engineDevice = new PciVfioDevice(engine.fn, { hideMsix: true });
    this.functions = [
      { name: 'disk', slot: DISK_SLOT, device: this.#diskDevice, memory: diskRam },
      { name: 'engine', slot: ENGINE_SLOT, device: engineDevice, memory: engineRam },
      ...(networked ? this.#networked() : []),
    ];
  }

  #networked(): readonly GuestFunction[] {
    return [
      this.#virtio('entropy', ENTROPY_SLOT, (memory, interrupt) => {
        this.#entropy = new VirtioEntropy(memory, interrupt);
        return this.#entropy.description;
      }),
      this.#virtio('network', NETWORK_SLOT, (memory, interrupt) => {
        this.#network = new VirtioNetwork(memory, this.#wire, interrupt);
        return this.#network.description;
      }),
    ];
  }

  /** A virtio device whose every access the unit translates, and whose messages are its function's own. */
  #virtio(
    name: string,
    slot: number,
    make: (memory: QueueMemory, interrupt: (source: number) => void) => VirtioDescription,
  ): GuestFunction {
    const requester = slot << 3;
    const memory = new GuestMemory([]);
    const translated = new TranslatedMemory(requester, this.#unit.target, memory, () => transport.fn.busMaster);
    const transport: VirtioPci = new VirtioPci(
      make(translated, (source) => transport.interrupt(source)),
      {
        sendMessage: (address, data) => this.#message(requester, address, data),
        setIntx: (level) => device.setIntx(level),
      },
    );
    const device: PciVfioDevice = new PciVfioDevice(transport.fn, { hideMsix: true });
    return { name, slot, device, memory };
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
      network: this.#network && { ...this.#network.counts, echoes: this.#wire.echoes, entropyBytes: this.#entropy?.counts.bytes ?? 0 },
    };
  }
}
