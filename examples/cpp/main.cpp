// Finds objects in a photo with a network that `maskrcnn export --format pt2` compiled. Needs libtorch alone.
//
//     ./detect model.cpu.pt2 photo.ppm [least score, 0.5 by default]
//
// Prints a line for each object: class, score, box (x1 y1 x2 y2 in pixels of the photo), and how many pixels of its
// mask, which is 28 x 28 in the frame of the box, belong to it.

#include <ATen/ATen.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

// What the file tells: names and texts, numbers with spaces between them.
struct Metadata {
  std::unordered_map<std::string, std::string> values;

  std::string text(const std::string& name) const {
    auto found = values.find("maskrcnn." + name);
    if (found == values.end()) throw std::runtime_error("the file does not tell " + name + "; did maskrcnn export it?");
    return found->second;
  }

  template <class T>
  std::vector<T> list(const std::string& name) const {
    std::istringstream stream(text(name));
    std::vector<T> items;
    for (T item; stream >> item;) items.push_back(item);
    return items;
  }

  double number(const std::string& name) const { return list<double>(name).at(0); }
};

// A photo in the PPM format (P6) as a tensor [3, H, W] of 0 to 255.
at::Tensor read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  int64_t width = 0, height = 0, most = 0;
  auto next = [&file]() {  // a number, after blanks and comments
    while (file >> std::ws && file.peek() == '#') file.ignore(1 << 20, '\n');
    int64_t value = 0;
    file >> value;
    return value;
  };
  file >> magic;
  width = next(), height = next(), most = next();
  if (!file || magic != "P6" || most != 255 || width < 1 || height < 1)
    throw std::runtime_error(path + " is not a PPM photo (P6, 8 bits); make one with: convert photo.jpg -auto-orient photo.ppm");
  file.ignore(1);
  at::Tensor pixels = at::empty({height, width, 3}, at::kByte);
  file.read(static_cast<char*>(pixels.data_ptr()), pixels.numel());
  if (file.gcount() != pixels.numel()) throw std::runtime_error(path + " is truncated");
  return pixels.permute({2, 0, 1}).to(at::kFloat);
}

at::Tensor column(const std::vector<double>& values) {
  return at::tensor(std::vector<float>(values.begin(), values.end())).reshape({3, 1, 1});
}

// The photo as the network wants it: in its order of colours, normalised, and resized so that the shorter side is
// min_size, or the longer one max_size if that is less. "float" rounds sizes down, as torchvision does, "pil" to the
// nearest pixel, and smooths what it makes smaller, as Detectron2 does.
at::Tensor prepare(at::Tensor photo, const Metadata& about) {
  const bool smooths = about.text("resize") == "pil";
  if (!smooths && about.text("resize") != "float")
    throw std::runtime_error("this example resizes as float and pil; the network wants " + about.text("resize"));
  if (about.text("channel_order") == "bgr") photo = photo.flip(0);
  const double shorter = std::min(photo.size(1), photo.size(2)), longer = std::max(photo.size(1), photo.size(2));
  const double scale = std::min(about.number("min_size") / shorter, about.number("max_size") / longer);
  auto side = [&](int64_t old) {
    return std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(old) * scale + (smooths ? 0.5 : 0.0)));
  };
  const std::vector<int64_t> size{side(photo.size(1)), side(photo.size(2))};
  const at::Tensor mean = column(about.list<double>("mean")), std = column(about.list<double>("std"));
  auto normalised = [&](const at::Tensor& pixels) { return (pixels / (1 / about.number("pixel_scale")) - mean) / std; };
  if (smooths) return normalised(at::_upsample_bilinear2d_aa(photo.unsqueeze(0), size, false).squeeze(0).round());
  return at::upsample_bilinear2d(normalised(photo).unsqueeze(0), size, false).squeeze(0);
}

// The image in the input that the file was made for: at its top left, the rest is padding.
at::Tensor pad(const at::Tensor& image, const Metadata& about) {
  if (about.text("padding").find("corner mean") == std::string::npos)
    throw std::runtime_error("this example pads right and below, with the mean colour; the network wants " +
                             about.text("padding"));
  const auto input = about.list<int64_t>("input");  // batch, height, width
  const bool any_size = about.text("dynamic") == "size" || about.text("dynamic") == "both";
  const auto divisor = about.list<int64_t>("size_divisor").at(0), least = about.list<int64_t>("least_side").at(0);
  const bool square = about.text("padding").rfind("square", 0) == 0;
  auto padded = [&](int64_t side, int64_t fixed) {
    const int64_t wanted = square ? static_cast<int64_t>(about.number("max_size")) : side;
    const int64_t up = any_size ? std::max(least, (wanted + divisor - 1) / divisor * divisor) : fixed;
    if (side > up)
      throw std::runtime_error("the photo has a side of " + std::to_string(side) +
                               " pixels once resized; the file takes " + std::to_string(up));
    return up;
  };
  const int64_t height = padded(image.size(1), input.at(1)), width = padded(image.size(2), input.at(2));
  const bool any_batch = about.text("dynamic") == "batch" || about.text("dynamic") == "both";
  at::Tensor batch = at::zeros({any_batch ? 1 : input.at(0), 3, height, width});
  batch.select(0, 0).narrow(1, 0, image.size(1)).narrow(2, 0, image.size(2)).copy_(image);
  return batch;
}

int run(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: detect MODEL.pt2 PHOTO.ppm [LEAST_SCORE]\n";
    return 2;
  }
  const double least_score = argc > 3 ? std::stod(argv[3]) : 0.5;
  const at::Tensor photo = read_ppm(argv[2]);

  torch::inductor::AOTIModelPackageLoader network(argv[1]);
  const Metadata about{network.get_metadata()};
  const at::Tensor image = prepare(photo, about), batch = pad(image, about);
  const at::Tensor size = at::tensor({image.size(1), image.size(2)}, at::kLong);
  const at::Tensor sizes = size.expand({batch.size(0), 2}).contiguous();

  const std::vector<at::Tensor> results = network.run({batch, sizes});
  std::map<std::string, at::Tensor> found;
  const auto names = about.list<std::string>("outputs");
  for (size_t i = 0; i < names.size(); ++i) found[names[i]] = results.at(i).select(0, 0);  // of the first image

  std::vector<std::string> classes;
  std::istringstream lines(about.text("class_names"));
  for (std::string line; std::getline(lines, line);) classes.push_back(line);

  const double scale_x = static_cast<double>(photo.size(2)) / static_cast<double>(image.size(2));
  const double scale_y = static_cast<double>(photo.size(1)) / static_cast<double>(image.size(1));
  for (int64_t i = 0; i < found["valid"].size(0); ++i) {
    const double score = found["scores"][i].item<double>();
    if (!found["valid"][i].item<bool>() || score < least_score) continue;
    const at::Tensor box = found["boxes"][i];
    auto corner = [&](int64_t k) { return box[k].item<double>() * (k % 2 == 0 ? scale_x : scale_y); };
    const std::string name = classes.at(static_cast<size_t>(found["labels"][i].item<int64_t>()));
    std::printf("%-20s %.6f  %.4f %.4f %.4f %.4f", name.c_str(), score, corner(0), corner(1), corner(2), corner(3));
    if (found.count("mask_logits"))
      std::printf("  %lld", static_cast<long long>((found["mask_logits"][i] > 0).sum().item<int64_t>()));
    std::printf("\n");
  }
  return 0;
}

int main(int argc, char** argv) {
  try {
    c10::InferenceMode guard;
    return run(argc, argv);
  } catch (const c10::Error& error) {  // of torch: what it says is long
    const std::string text = error.what_without_backtrace();
    std::cerr << "Error: " << text.substr(0, text.find('\n')) << "\n";
    return 1;
  } catch (const std::exception& error) {
    std::cerr << "Error: " << error.what() << "\n";
    return 1;
  }
}
