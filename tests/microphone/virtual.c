/* A microphone for tests: an ALSA device that plays a file, at its own pace and in its one format, as hardware does.
 *
 *   pcm_type.recording { lib "/…/virtual.so" }
 *   pcm.mic { type recording file "/…/speech.raw" plug "/…/plugged" rate 44100 channels 2 format "S16_LE" }
 *
 * `file` holds samples of that format, channels interleaved; after them there is silence. Every time the device is opened
 * it begins again; what is not fetched in time is lost. It is there for as long as the file `plug` is: without it, opening fails, and an open device is gone, as
 * if its cable had been pulled.
 *
 * cc -shared -fPIC -DPIC -o virtual.so virtual.c -lasound
 */
#include <alsa/asoundlib.h>
#include <alsa/pcm_external.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

struct microphone {
    snd_pcm_ioplug_t io;
    FILE *file;
    char *plug;
    /* When it was first started, and last, in nanoseconds; and the frames handed on since the last. */
    long long first, begun;
    unsigned long long given;
};

static long long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int start(snd_pcm_ioplug_t *io) {
    struct microphone *microphone = io->private_data;
    long period = 1000000000LL * io->period_size / io->rate;
    struct itimerspec ticks = {{period / 1000000000, period % 1000000000}, {period / 1000000000, period % 1000000000}};
    microphone->begun = now();
    microphone->given = 0;
    if (!microphone->first)
        microphone->first = microphone->begun;
    /* After an overrun: where the recording is by now. */
    long long missed = (microphone->begun - microphone->first) / 1e9 * io->rate;
    fseek(microphone->file, missed * io->channels * snd_pcm_format_physical_width(io->format) / 8, SEEK_SET);
    return timerfd_settime(io->poll_fd, 0, &ticks, NULL) < 0 ? -errno : 0;
}

static int stop(snd_pcm_ioplug_t *io) {
    struct itimerspec never = {{0, 0}, {0, 0}};
    return timerfd_settime(io->poll_fd, 0, &never, NULL) < 0 ? -errno : 0;
}

static snd_pcm_sframes_t pointer(snd_pcm_ioplug_t *io) {
    struct microphone *microphone = io->private_data;
    unsigned long long heard = (unsigned long long)((now() - microphone->begun) / 1e9 * io->rate);
    if (heard - microphone->given > io->buffer_size)
        return -EPIPE;
    return heard % io->buffer_size;
}

static snd_pcm_sframes_t transfer(snd_pcm_ioplug_t *io, const snd_pcm_channel_area_t *areas, snd_pcm_uframes_t offset,
                                  snd_pcm_uframes_t size) {
    struct microphone *microphone = io->private_data;
    size_t frame = areas->step / 8;
    char *to = (char *)areas->addr + areas->first / 8 + frame * offset;
    size_t got = fread(to, frame, size, microphone->file);
    memset(to + frame * got, 0, frame * (size - got));
    microphone->given += size;
    return size;
}

static int poll_revents(snd_pcm_ioplug_t *io, struct pollfd *descriptors, unsigned int count, unsigned short *events) {
    struct microphone *microphone = io->private_data;
    unsigned long long ticks;
    (void)count;
    *events = descriptors[0].revents;
    if (read(io->poll_fd, &ticks, sizeof ticks) < 0 && errno != EAGAIN)
        return -errno;
    if (access(microphone->plug, F_OK) < 0) {
        snd_pcm_ioplug_set_state(io, SND_PCM_STATE_DISCONNECTED);
        *events = POLLERR | POLLHUP;
    }
    return 0;
}

static int close_microphone(snd_pcm_ioplug_t *io) {
    struct microphone *microphone = io->private_data;
    close(io->poll_fd);
    fclose(microphone->file);
    free(microphone->plug);
    free(microphone);
    return 0;
}

static const snd_pcm_ioplug_callback_t callbacks = {
    .start = start,
    .stop = stop,
    .pointer = pointer,
    .transfer = transfer,
    .poll_revents = poll_revents,
    .close = close_microphone,
};

SND_PCM_PLUGIN_DEFINE_FUNC(recording) {
    const char *file = NULL, *plug = NULL, *format = NULL;
    long rate = 0, channels = 0;
    snd_config_iterator_t each, next;
    (void)root;
    snd_config_for_each(each, next, conf) {
        snd_config_t *entry = snd_config_iterator_entry(each);
        const char *id;
        if (snd_config_get_id(entry, &id) < 0)
            continue;
        if (!strcmp(id, "file"))
            snd_config_get_string(entry, &file);
        else if (!strcmp(id, "plug"))
            snd_config_get_string(entry, &plug);
        else if (!strcmp(id, "format"))
            snd_config_get_string(entry, &format);
        else if (!strcmp(id, "rate"))
            snd_config_get_integer(entry, &rate);
        else if (!strcmp(id, "channels"))
            snd_config_get_integer(entry, &channels);
    }
    if (!file || !plug || !format || !rate || !channels || stream != SND_PCM_STREAM_CAPTURE)
        return -EINVAL;
    if (access(plug, F_OK) < 0)
        return -ENODEV;

    struct microphone *microphone = calloc(1, sizeof *microphone);
    microphone->file = fopen(file, "rb");
    microphone->plug = strdup(plug);
    microphone->io.version = SND_PCM_IOPLUG_VERSION;
    microphone->io.name = "a recording";
    microphone->io.callback = &callbacks;
    microphone->io.private_data = microphone;
    microphone->io.poll_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    microphone->io.poll_events = POLLIN;
    if (!microphone->file || microphone->io.poll_fd < 0)
        return -errno;
    int failed = snd_pcm_ioplug_create(&microphone->io, name, stream, mode);
    if (failed < 0)
        return failed;

    unsigned int bytes = channels * snd_pcm_format_physical_width(snd_pcm_format_value(format)) / 8;
    unsigned int one_access[] = {SND_PCM_ACCESS_RW_INTERLEAVED}, one_format[] = {snd_pcm_format_value(format)};
    snd_pcm_ioplug_set_param_list(&microphone->io, SND_PCM_IOPLUG_HW_ACCESS, 1, one_access);
    snd_pcm_ioplug_set_param_list(&microphone->io, SND_PCM_IOPLUG_HW_FORMAT, 1, one_format);
    snd_pcm_ioplug_set_param_minmax(&microphone->io, SND_PCM_IOPLUG_HW_RATE, rate, rate);
    snd_pcm_ioplug_set_param_minmax(&microphone->io, SND_PCM_IOPLUG_HW_CHANNELS, channels, channels);
    snd_pcm_ioplug_set_param_minmax(&microphone->io, SND_PCM_IOPLUG_HW_PERIOD_BYTES, 256 * bytes, 4096 * bytes);
    snd_pcm_ioplug_set_param_minmax(&microphone->io, SND_PCM_IOPLUG_HW_BUFFER_BYTES, 1024 * bytes, 65536 * bytes);
    *pcmp = microphone->io.pcm;
    return 0;
}
SND_PCM_PLUGIN_SYMBOL(recording);
