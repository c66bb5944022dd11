use std::sync::mpsc;

use proptest::prelude::*;

use super::*;
use crate::device::DeviceType;
use crate::saved::TransportState;

const QUEUE_SIZES: [u16; 2] = [16, 256];

struct Mock {
    activations: mpsc::Sender<Activation>,
}

impl VirtioDevice for Mock {
    fn device_type(&self) -> DeviceType {
        DeviceType::Vsock
    }
    fn features(&self) -> u64 {
        1
    }
    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }
    fn config(&self) -> &[u8] {
        &[3, 0, 0, 0, 0, 0, 0, 0]
    }
    fn activate(&mut self, activation: Activation) -> bool {
        self.activations.send(activation).is_ok()
    }
    fn reset(&mut self) {}
}

fn transport() -> (MmioTransport, mpsc::Receiver<Activation>) {
    let memory = GuestRam::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
    let (activations, activated) = mpsc::channel();
    let line = EventFd::new(EFD_NONBLOCK).unwrap();
    let device = Box::new(Mock { activations });
    (
        MmioTransport::new(Arc::new(memory), device, line, RegisterPage::unmapped()).unwrap(),
        activated,
    )
}

fn read(transport: &MmioTransport, offset: u64) -> u32 {
    let mut data = [0; 4];
    transport.read(offset, &mut data);
    u32::from_le_bytes(data)
}

fn write(transport: &mut MmioTransport, offset: u64, value: u32) {
    transport.write(offset, &value.to_le_bytes());
}

fn negotiate(transport: &mut MmioTransport, features: u64) {
    write(transport, STATUS, ACKNOWLEDGE);
    write(transport, STATUS, ACKNOWLEDGE | DRIVER);
    for (select, word) in (0..).zip(words(features)) {
        write(transport, DRIVER_FEATURES_SEL, select);
        write(transport, DRIVER_FEATURES, word);
    }
    write(transport, STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
}

fn set_up_queue(transport: &mut MmioTransport, queue: u32, size: u32, base: u32) {
    write(transport, QUEUE_SEL, queue);
    write(transport, QUEUE_NUM, size);
    write(transport, QUEUE_DESC_LOW, base);
    write(transport, QUEUE_DRIVER_LOW, base + 0x1000);
    write(transport, QUEUE_DEVICE_LOW, base + 0x2000);
    write(transport, QUEUE_READY, 1);
}

fn serve(transport: &mut MmioTransport) {
    write(transport, STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

#[test]
fn a_driver_recognises_the_device() {
    let (transport, _) = transport();
    assert_eq!(read(&transport, MAGIC_VALUE), 0x7472_6976);
    assert_eq!(read(&transport, VERSION), 2);
    assert_eq!(read(&transport, DEVICE_ID), 19);
    assert_eq!(read(&transport, CONFIG), 3);
    assert_eq!(read(&transport, SHM_LEN_LOW), u32::MAX);
}

#[test]
fn a_driver_brings_the_device_into_service() {
    let (mut transport, activated) = transport();
    negotiate(&mut transport, FEATURE_VERSION_1 | FEATURE_EVENT_IDX);
    assert_eq!(read(&transport, STATUS) & FEATURES_OK, FEATURES_OK);
    set_up_queue(&mut transport, 0, 16, 0x1000);
    assert_eq!(read(&transport, QUEUE_READY), 1);
    serve(&mut transport);
    assert!(transport.driver_ok());
    let activation = activated.try_recv().unwrap();
    assert_eq!(activation.features, FEATURE_VERSION_1 | FEATURE_EVENT_IDX);
    assert_eq!(activation.queues.len(), 2);
}

#[test]
fn features_that_are_not_on_offer_are_refused() {
    let (mut transport, _) = transport();
    negotiate(&mut transport, FEATURE_VERSION_1 | 1 << 5);
    assert_eq!(read(&transport, STATUS) & FEATURES_OK, 0);
}

#[test]
fn a_legacy_driver_is_refused() {
    let (mut transport, _) = transport();
    negotiate(&mut transport, 0);
    assert_eq!(read(&transport, STATUS) & FEATURES_OK, 0);
}

#[test]
fn a_driver_that_skips_negotiation_is_not_served() {
    let (mut transport, activated) = transport();
    write(&mut transport, STATUS, ACKNOWLEDGE | DRIVER | DRIVER_OK);
    assert!(!transport.driver_ok());
    assert!(activated.try_recv().is_err());
}

#[test]
fn a_queue_outside_memory_breaks_the_device() {
    let (mut transport, activated) = transport();
    negotiate(&mut transport, FEATURE_VERSION_1);
    set_up_queue(&mut transport, 1, 256, 0xfff0);
    serve(&mut transport);
    assert_eq!(read(&transport, STATUS) & DEVICE_NEEDS_RESET, DEVICE_NEEDS_RESET);
    assert_eq!(read(&transport, INTERRUPT_STATUS), 2);
    assert!(activated.try_recv().is_err());
}

#[test]
fn a_queue_that_ends_with_memory_is_fine() {
    let (mut transport, activated) = transport();
    negotiate(&mut transport, FEATURE_VERSION_1);
    write(&mut transport, QUEUE_SEL, 1);
    write(&mut transport, QUEUE_NUM, 256);
    write(&mut transport, QUEUE_DESC_LOW, 0xf000);
    write(&mut transport, QUEUE_DRIVER_LOW, 0x1000);
    write(&mut transport, QUEUE_DEVICE_LOW, 0x2000);
    write(&mut transport, QUEUE_READY, 1);
    serve(&mut transport);
    assert!(activated.try_recv().is_ok());
}

#[test]
fn sizes_that_are_no_power_of_two_or_too_large_break_the_device() {
    for size in [0, 3, 32, 0x1_0010] {
        let (mut transport, activated) = transport();
        negotiate(&mut transport, FEATURE_VERSION_1);
        set_up_queue(&mut transport, 0, size, 0x1000);
        serve(&mut transport);
        assert!(activated.try_recv().is_err(), "{size} was taken");
    }
}

#[test]
fn queues_keep_their_shape_in_service() {
    let (mut transport, _activated) = transport();
    negotiate(&mut transport, FEATURE_VERSION_1);
    set_up_queue(&mut transport, 0, 16, 0x1000);
    serve(&mut transport);
    write(&mut transport, QUEUE_READY, 0);
    assert_eq!(read(&transport, QUEUE_READY), 1);
}

#[test]
fn a_reset_forgets_everything() {
    let (mut transport, activated) = transport();
    negotiate(&mut transport, FEATURE_VERSION_1);
    set_up_queue(&mut transport, 0, 16, 0x1000);
    serve(&mut transport);
    activated.recv().unwrap().interrupt.used_buffer();
    write(&mut transport, STATUS, 0);
    assert_eq!(read(&transport, STATUS), 0);
    assert_eq!(read(&transport, INTERRUPT_STATUS), 0);
    assert_eq!(read(&transport, QUEUE_READY), 0);
}

#[test]
fn an_interrupt_is_raised_and_acknowledged() {
    let (mut transport, activated) = transport();
    negotiate(&mut transport, FEATURE_VERSION_1);
    serve(&mut transport);
    activated.recv().unwrap().interrupt.used_buffer();
    assert_eq!(transport.line.read().unwrap(), 1);
    assert_eq!(read(&transport, INTERRUPT_STATUS), 1);
    write(&mut transport, INTERRUPT_ACK, 1);
    assert_eq!(read(&transport, INTERRUPT_STATUS), 0);
}

/// Counts, and says what it is told to say.
#[derive(Default)]
struct Pulses(Count, bool);

impl Pulse for Pulses {
    fn pulse(&self) -> bool {
        self.0.add(1);
        self.1
    }
}

#[test]
fn a_worker_with_a_pulse_of_its_own_needs_the_line_only_where_that_fails() {
    for works in [true, false] {
        let (transport, activated) = transport();
        let pulses = Arc::new(Pulses(Count::default(), works));
        let mut transport = transport.with_pulse(Arc::clone(&pulses) as _);
        negotiate(&mut transport, FEATURE_VERSION_1);
        serve(&mut transport);
        let interrupt = activated.recv().unwrap().interrupt;
        interrupt.used_buffer();
        assert_eq!((pulses.0.get(), transport.line.read().unwrap()), (0, 1));
        interrupt.used_buffer_at_once();
        assert_eq!((pulses.0.get(), transport.line.read().is_err()), (1, works));
        assert_eq!(read(&transport, INTERRUPT_STATUS), 1);
        // Whichever thread finds the device broken.
        interrupt.needs_reset();
        assert_eq!((pulses.0.get(), transport.line.read().unwrap()), (1, 1));
    }
}

#[test]
fn a_notification_by_register_is_passed_on() {
    let (mut transport, _) = transport();
    write(&mut transport, QUEUE_NOTIFY, 1);
    write(&mut transport, QUEUE_NOTIFY, 2);
    let (_, event) = transport.notifiers().nth(1).unwrap();
    assert_eq!(event.read().unwrap(), 1);
}

#[test]
fn a_saved_device_is_in_service_where_it_was() {
    let (mut saved, activated) = transport();
    negotiate(&mut saved, FEATURE_VERSION_1 | FEATURE_EVENT_IDX);
    set_up_queue(&mut saved, 0, 16, 0x1000);
    serve(&mut saved);
    activated.recv().unwrap();
    let positions = [QueuePosition { next_available: 7, next_used: 5 }, QueuePosition::default()];
    let state = saved.save(&positions);
    let (mut restored, activated) = transport();
    restored.restore(&state).unwrap();
    let activation = activated.recv().unwrap();
    assert_eq!(activation.features, FEATURE_VERSION_1 | FEATURE_EVENT_IDX);
    let served: Vec<_> = activation.queues.iter().map(DeviceQueue::position).collect();
    assert_eq!(served, positions);
    assert_eq!(activation.queues[0].notification().read().unwrap(), 1);
    assert_eq!(restored.line.read().unwrap(), 1);
    let again = TransportState { interrupt: state.interrupt, ..restored.save(&positions) };
    assert_eq!(again, state);
}

#[test]
fn a_device_that_was_not_in_service_is_restored_without_its_worker() {
    let (mut saved, _activated) = transport();
    negotiate(&mut saved, FEATURE_VERSION_1);
    let (mut restored, activated) = transport();
    restored.restore(&saved.save(&[])).unwrap();
    assert_eq!(read(&restored, STATUS), ACKNOWLEDGE | DRIVER | FEATURES_OK);
    assert!(activated.try_recv().is_err());
}

#[test]
fn what_is_not_the_state_of_this_device_is_refused() {
    let (mut saved, _activated) = transport();
    negotiate(&mut saved, FEATURE_VERSION_1);
    serve(&mut saved);
    let good = saved.save(&[]);
    let refused = |state| transport().0.restore(&state).unwrap_err();
    let state = TransportState { device_type: 4, ..good.clone() };
    assert_eq!(refused(state), InvalidTransport::Device { found: 4, expected: 19 });
    let state = TransportState { queues: vec![], ..good.clone() };
    assert_eq!(refused(state), InvalidTransport::Queues { found: 0, expected: 2 });
    let state = TransportState { status: 1 << 31, ..good.clone() };
    assert_eq!(refused(state), InvalidTransport::Register(1 << 31));
    let state = TransportState { accepted: 1 << 60, ..good.clone() };
    assert_eq!(refused(state), InvalidTransport::Register(1 << 60));
    let mut state = good;
    state.queues[0] = QueueState { ready: true, size: 3, ..QueueState::default() };
    assert_eq!(refused(state), InvalidTransport::Unserved);
}

proptest! {
    #[test]
    fn no_sequence_of_accesses_panics(
        accesses in proptest::collection::vec((any::<bool>(), 0..0x200u64, any::<u32>(), 0..9usize), 0..200)
    ) {
        let (mut transport, _activated) = transport();
        for (is_write, offset, value, width) in accesses {
            let mut data = [0; 8];
            data[..4].copy_from_slice(&value.to_le_bytes());
            if is_write {
                transport.write(offset, &data[..width]);
            } else {
                transport.read(offset, &mut data[..width]);
            }
        }
    }

    #[test]
    fn status_bits_only_come_in_order(values in proptest::collection::vec(1..256u32, 0..20)) {
        let (mut transport, _activated) = transport();
        for value in values {
            let before = read(&transport, STATUS);
            write(&mut transport, STATUS, value);
            let after = read(&transport, STATUS);
            prop_assert_eq!(after & before, before);
            prop_assert!(after & DRIVER_OK == 0);
        }
    }
}

#[test]
fn a_window_without_a_device_is_a_placeholder() {
    let page = RegisterPage::unmapped();
    let read = |offset| {
        let mut data = [0xff; 4];
        page.read(offset, &mut data);
        u32::from_le_bytes(data)
    };
    assert_eq!([read(MAGIC_VALUE), read(VERSION), read(DEVICE_ID)], [MAGIC, MMIO_VERSION, 0]);
    assert_eq!([read(STATUS), read(QUEUE_NUM_MAX), read(CONFIG)], [0; 3]);
}

/// What the guest reads by itself, without the transport.
#[test]
fn the_register_page_says_what_an_exit_would() {
    let memory = GuestRam::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
    let (activations, _activated) = mpsc::channel();
    let line = EventFd::new(EFD_NONBLOCK).unwrap();
    let page = RegisterPage::unmapped();
    let device = Box::new(Mock { activations });
    let mut transport = MmioTransport::new(Arc::new(memory), device, line, page.clone()).unwrap();
    let read = |offset| page.register(offset).load(Ordering::SeqCst);
    assert_eq!([MAGIC_VALUE, VERSION, DEVICE_ID, VENDOR_ID].map(read), [MAGIC, 2, 19, VENDOR]);
    assert_eq!([SHM_LEN_LOW, SHM_BASE_HIGH, CONFIG].map(read), [u32::MAX, u32::MAX, 3]);
    negotiate(&mut transport, FEATURE_VERSION_1);
    assert_eq!(read(STATUS), ACKNOWLEDGE | DRIVER | FEATURES_OK);
    write(&mut transport, DEVICE_FEATURES_SEL, 1);
    assert_eq!(read(DEVICE_FEATURES), 1);
    write(&mut transport, QUEUE_SEL, 1);
    assert_eq!([read(QUEUE_NUM_MAX), read(QUEUE_READY)], [256, 0]);
    write(&mut transport, QUEUE_READY, 1);
    assert_eq!(read(QUEUE_READY), 1);
    transport.interrupt().used_buffer();
    assert_eq!(read(INTERRUPT_STATUS), USED_BUFFER);
    write(&mut transport, INTERRUPT_ACK, USED_BUFFER);
    assert_eq!(read(INTERRUPT_STATUS), 0);
    write(&mut transport, STATUS, 0);
    assert_eq!([read(STATUS), read(QUEUE_READY), read(QUEUE_NUM_MAX)], [0, 0, 16]);
}
