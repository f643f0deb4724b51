# Homebrew formula. A release replaces `example.invalid` by its own address and fills in `sha256`, which
# `brew fetch --build-from-source` prints.
class ClaraProxy < Formula
  include Language::Python::Virtualenv

  desc "OpenAI-compatible proxy that compresses LLM requests and reports the savings"
  homepage "https://example.invalid/clara-proxy"
  url "https://example.invalid/clara-proxy/clara_proxy-0.1.0.tar.gz"
  sha256 "0000000000000000000000000000000000000000000000000000000000000000"
  license "Apache-2.0"

  depends_on "python@3.13"

  def install
    virtualenv_create(libexec, "python3.13")
    system libexec/"bin/python", "-m", "ensurepip"
    system libexec/"bin/python", "-m", "pip", "install", "--constraint", "constraints.txt", buildpath
    bin.install_symlink libexec/"bin/clara-proxy"
    (man1/"clara-proxy.1").write Utils.safe_popen_read(bin/"clara-proxy", "reference", "--man")
    generate_completions_from_executable(bin/"clara-proxy", shell_parameter_format: :typer)
  end

  service do
    run [opt_bin/"clara-proxy", "serve"]
    keep_alive crashed: true
    log_path var/"log/clara-proxy.log"
    error_log_path var/"log/clara-proxy.log"
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/clara-proxy --version")
    (testpath/"app.log").write "INFO started\n" * 400 + "ERROR disk full\n"
    assert_match "disk full", shell_output("#{bin}/clara-proxy compress app.log --ratio 10")
  end
end
